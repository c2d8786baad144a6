"""The score error in nats, where the conditionals of the data are known exactly."""

from __future__ import annotations

from mdlm_cfg.reports.page import Section
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.sequences.findings import SequenceFindings


def score_section(findings: SequenceFindings, tested: str, unit: str, digits: int) -> Section:
    """NELBO of the network beside that of the exact denoiser, with the class and without.

    Args:
        tested: what it was measured on, such as "images of the mixture itself".
        unit: one of them, "image" or "sequence". digits: of the nats.
    """
    rows = [
        [
            {"conditional": "with the class", "null": "without"}[label],
            *(format_number(value, digits) for value in (error.nelbo, error.exact_nelbo, error.entropy)),
            f"{error.difference:.{digits}f} ± {error.difference_se:.{digits}f}",
            f"{error.kl:.{digits}f} ± {error.kl_se:.{digits}f}",
        ]
        for label, error in findings.score.items()
    ]
    error = next(iter(findings.score.values()))
    text = (
        f"On {error.num_images:,} {tested}, {error.num_draws} masks each, the same for the network "
        "and the exact denoiser. The last column estimates the same score error with less noise, by the KL divergence "
        f"of the network's conditionals from the exact ones. ± is one standard error over {unit}s."
    )
    heads = ("", "network", "exact", "entropy", "score error: the difference", "score error: as KL")
    return Section("Score error", text, Table(heads, rows, f"Negative ELBO in nats per {unit}."))
