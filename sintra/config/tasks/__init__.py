"""Read and check what `probe.tasks` names: task files, their rows, their templates."""
