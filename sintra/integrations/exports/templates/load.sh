set -eu
# Leaves once $MODELS/model.gguf has the SHA-256 $MODEL_SHA256: it is there already, comes from $MODEL_URL, or somebody copies it.
sound() { [ -f "$1" ] && echo "$MODEL_SHA256  $1" | sha256sum -c - >/dev/null 2>&1; }
model="$MODELS/model.gguf" part="$MODELS/model.gguf.part"
while ! sound "$model"; do
  if [ -n "$MODEL_URL" ]; then
    curl --fail --silent --show-error --location --retry 5 --continue-at - --output "$part" "$MODEL_URL" || { rm -f "$part"; exit 1; }
    sound "$part" || { rm -f "$part"; echo "MODEL_URL has another SHA-256 than $MODEL_SHA256" >&2; exit 1; }
    mv "$part" "$model"
  else
    echo "waiting for $model ($MODEL_SHA256)"
    sleep 5
  fi
done
