"""From a captured model to an executable program: the weights' bank, what was decided and why."""
