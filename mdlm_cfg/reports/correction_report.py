"""Sections on the tilted law, sampled: what correction of a table costs."""

from __future__ import annotations

from pathlib import Path

from mdlm_cfg.reports.curves import Points, line_plot
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.style import COLOURS, GREY
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.correction.findings import SampleRow, TableCorrection

SHOWN_COLOURS = {
    "guided": COLOURS["exact"], "weighted": COLOURS["tilted"], "resampled": "#009E73", "perfect": GREY,
    "weighted, expected": COLOURS["tilted"],
}  # fmt: skip


def correction_sections(findings: TableCorrection, folder: Path) -> list[Section]:
    """Everything that was found; writes its pictures to `folder`."""
    return [_costs(findings, folder), _samples(findings, folder), _resampling(findings, folder)]


def _costs(findings: TableCorrection, folder: Path) -> Section:
    learned = findings.judged == "learned"
    rows = [
        [
            cost.guidance.label, *([cost.denoiser] if learned else []), cost.policy, format_number(cost.ess),
            f"{1 / cost.ess:,.3g}", format_number(cost.tv_guided),
            *([format_number(cost.tv_weighted)] if learned else []),
            f"{cost.pays_from:,}" if cost.pays_from else "never",
        ]
        for cost in findings.costs
    ]  # fmt: skip
    text = (
        "Every finished sample is weighted by W, the product of the guided normalisers Z of the coordinates it "
        "unmasked: the weighted law is the tilted law for exact scores, whatever the order, and for learned ones the "
        "tilted law averaged over orders. The effective sample size is known exactly before any sample is drawn."
    )
    note = (
        "Effective: the share of samples that is left, (E W)² / E W². Cost: samples for one effective sample. "
        "TV to the tilted law, of the chain's law as it is" + (" and of its weighted law" if learned else "") + ". "
        "Pays from: about the number of samples from which weighted ones are nearer than unweighted ones."
    )
    heads = ["w", "order", "effective", "cost", "guided law", "pays from"]
    if learned:
        heads = ["w", "scores", "order", "effective", "cost", "guided law", "weighted law", "pays from"]
    w = [guidance.constant for guidance in findings.plan.guidances]
    series: dict[str, Points] = {}
    for cost in findings.costs:
        name = f"{cost.policy}, {cost.denoiser}" if findings.judged == "learned" else cost.policy
        if name not in series:
            ess = [c.ess for c in findings.costs if (c.policy, c.denoiser) == (cost.policy, cost.denoiser)]
            series[name] = (w, ess)
    path = line_plot(series, folder / "ess.png", "guidance strength w", "effective share of samples", log_y=True)
    picture = Picture(path, "What weights leave of the samples, exactly; orders that agree lie on one another.")
    return Section("What do weights cost?", text, Table(heads, rows, note), [picture])


def _samples(findings: TableCorrection, folder: Path) -> Section:
    rows = [
        [
            row.guidance.label, f"{row.num_samples:,}",
            *(format_number(v) for v in (row.guided, row.weighted, row.expected_weighted, row.resampled, row.floor)),
        ]
        for row in findings.samples
    ]  # fmt: skip
    text = (
        f"Samples of {findings.judged} scores, class {findings.target_class}, by {findings.plan.sampler.label}, seed "
        f"{findings.plan.seed}: as the chain gives them, with their weights, and resampled on the way (sequential "
        f"Monte Carlo in {findings.options.num_groups} groups, threshold {findings.options.threshold:g}). Unweighted "
        "samples stop at the distance of the guided law, however many there are; weighted ones go on."
    )
    note = (
        "Mean total variation distance to the tilted law, over up to "
        f"{max(row.num_sets for row in findings.samples)} independent sets of n. Perfect: what n samples of the tilted "
        "law itself show. Expected: of weighted samples, by the second moment of the weights, for n large; absent "
        "where too few samples are effective for that."
    )
    heads = ["w", "n", "guided", "weighted", "expected", "resampled", "perfect"]
    pictures = [_against_n(findings.samples_at(guidance), folder) for guidance in findings.plan.guidances]
    return Section("Samples against their number", text, Table(heads, rows, note), [p for p in pictures if p])


def _against_n(rows: list[SampleRow], folder: Path) -> Picture | None:
    """The curves of one strength; None where there is one number of samples."""
    if len(rows) < 2:
        return None
    n, guidance = [float(row.num_samples) for row in rows], rows[0].guidance
    series: dict[str, Points] = {
        "guided": (n, [row.guided for row in rows]),
        "weighted": (n, [row.weighted for row in rows]),
        "resampled": (n, [row.resampled for row in rows]),
        "perfect": (n, [row.floor for row in rows]),
    }
    limit = [(float(row.num_samples), row.expected_weighted) for row in rows if row.expected_weighted is not None]
    if limit:
        series["weighted, expected"] = [p[0] for p in limit], [p[1] for p in limit]
    path = line_plot(
        series, folder / f"tv_w{guidance.constant:g}.png", "number of samples n", "TV to the tilted law",
        f"w = {guidance.label}", log_x=True, log_y=True, colours=SHOWN_COLOURS,
        dashed=["weighted, expected", "perfect"],
    )  # fmt: skip
    return Picture(path, f"w = {guidance.label}: distance to the tilted law against n.")


def _resampling(findings: TableCorrection, folder: Path) -> Section:
    rows = [
        [
            row.guidance.label, f"{row.num_samples:,}", format_number(row.exact),
            f"{row.log_normalizer:.4f} ± {row.relative_error:.4f}", format_number(row.ess),
            format_number(min(row.ess_on_the_way)), ", ".join(map(str, row.num_resampled)),
        ]
        for row in findings.resampling
    ]  # fmt: skip
    text = (
        "The normaliser E W = Σ p(x)^(-w) p(x|z)^(1+w) is estimated without bias with resampling too; its error comes "
        "from the spread of independent groups. Lowest: the groups' mean effective share at its lowest, on the way."
    )
    heads = ["w", "n", "ln E W", "estimated", "effective", "lowest", "groups resampled"]
    steps = range(1, len(findings.resampling[0].ess_on_the_way) + 1)
    series: dict[str, Points] = {
        f"w = {row.guidance.label}": (list(steps), list(row.ess_on_the_way)) for row in findings.resampling
    }
    pictures = []
    if len(steps) > 1:
        path = line_plot(series, folder / "ess_on_the_way.png", "coordinates unmasked", "effective share in a group")
        pictures.append(Picture(path, "The groups' mean effective share at each step, before any resampling."))
    return Section("Sequential Monte Carlo", text, Table(heads, rows), pictures)
