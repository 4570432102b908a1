"""Run tasks with lm-eval: build a task, score answers, and compare them with the baseline's."""
