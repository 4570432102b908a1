"""Where workers run: each module is one executor, an entry point of `sintra.executors`."""
