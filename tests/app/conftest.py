"""Commands are tested by what they find and leave behind; their reports are short where no test asks for more."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from mdlm_cfg.app import evaluation
from mdlm_cfg.studies import own_model, report
from mdlm_cfg.studies.samplers import Samplers


@pytest.fixture(scope="module", autouse=True)  # also of the module's own runs
def short_reports() -> Iterator[None]:
    """Pictures of one pixel, and few numbers of steps: both take more time than all the rest of a small report.

    Every file is there all the same. A file of tests that need whole reports overrides this fixture.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "sections_of", partial(evaluation.sections_of, backend="none"))
        for study in (own_model, report):
            patch.setattr(study, "Samplers", partial(Samplers, (2, 3)))
        yield
