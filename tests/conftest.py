"""How much hypothesis draws: little by default, a lot with ``HYPOTHESIS_PROFILE=long``."""

import importlib
import os

from hypothesis import HealthCheck, Phase, settings

import fmlp  # noqa: F401  # before pytest imports its modules for their doctests, one by one, as others than these

collect_ignore = ["packaging", "typing"]  # not tests to run: the one is a command, the other is for type checkers

settings.register_profile(
    "ci", deadline=None, max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck)
)
# For tests that are expected to fail: the first counterexample will do.
settings.register_profile("mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.register_profile("long", settings.get_profile("ci"), max_examples=1000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Trainings and predictions in tests are short; plan them, too.
for _module in ("fmlp.distributed", "fmlp.evaluation"):
    importlib.import_module(_module).AFTER = 8
