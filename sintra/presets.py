"""llama.cpp's file types in numbers."""

# Bits a weight of llama.cpp's presets on Llama-3.1-8B, as its quantize tool's README lists them:
# what to expect, roughly.
PRESET_BITS = {
    "Q8_0": 8.50,
    "Q6_K": 6.56,
    "Q5_K_M": 5.70,
    "Q5_K_S": 5.57,
    "Q4_K_M": 4.89,
    "Q4_K_S": 4.67,
    "IQ4_XS": 4.46,
    "Q3_K_L": 4.30,
    "Q3_K_M": 4.00,
    "Q3_K_S": 3.64,
    "Q2_K": 3.16,
    "Q4_0": 4.66,
    "Q5_0": 5.61,
}
# The fewest bits that any matrix of such a file has: the base type's block. Other presets are
# bounded by IQ1_S.
BLOCK_BITS = {
    "Q2_K": 2.625,
    "Q3_K_S": 3.4375,
    "Q3_K_M": 3.4375,
    "Q3_K_L": 3.4375,
    "IQ4_XS": 4.25,
    "Q4_0": 4.5,
    "Q4_K_S": 4.5,
    "Q4_K_M": 4.5,
    "Q3_K": 3.4375,
    "Q4_K": 4.5,
    "Q5_K": 5.5,
    "IQ4_NL": 4.5,
    "Q4_1": 5.0,
    "Q5_1": 6.0,
    "Q5_0": 5.5,
    "Q5_K_S": 5.5,
    "Q5_K_M": 5.5,
    "Q6_K": 6.5625,
    "Q8_0": 8.5,
}
