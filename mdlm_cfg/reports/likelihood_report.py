"""The page of likelihoods: NLL, NELBO, and the bounds and orders between them."""

from __future__ import annotations

from pathlib import Path

from mdlm_cfg.reports.curves import Points, line_plot
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.style import CYCLE
from mdlm_cfg.reports.tables import Table
from mdlm_cfg.studies.likelihood.findings import LABELS, BoundsFindings, TableLikelihoodFindings

DIGITS = 5  # of nats of a table, which are exact
ERRORS = 3  # standard errors that an excess is above 0, or it has no place on a logarithmic axis
UNGUIDED = "All is of the unguided chain, w = 0. "


def table_likelihood_sections(findings: TableLikelihoodFindings, folder: Path) -> list[Section]:
    """Likelihoods of a table; pictures are drawn into `folder`."""
    sizes = list(findings.entries[0].bounds)[1:]
    columns = ["scores", "", "entropy", "NLL", *(f"{k} orders" for k in reversed(sizes)), "NELBO", "incoherence"]
    rows = [
        [
            e.scores, LABELS[e.label], f"{e.entropy:.{DIGITS}f}", f"{e.nll:.{DIGITS}f}",
            *(f"{e.bounds[k].value:.{DIGITS}f}" for k in reversed(sizes)),
            f"{e.nelbo:.{DIGITS}f}", f"{e.incoherence:.1e}",
        ]
        for e in findings.entries
    ]  # fmt: skip
    error = max(e.bounds[k].standard_error for e in findings.entries for k in sizes)
    text = (
        f"{UNGUIDED}NLL is of the law of the uniform order, -E ln q(x): exact, like the NELBO, which is the bound from "
        "one order. NELBO - NLL is the incoherence of the conditionals: 0 where all orders agree."
    )
    note = (
        "In nats per sample. With the class: the mean over the classes. Bounds from several orders are by "
        f"{findings.num_samples:,} samples, beside the exact NLL of each: standard errors are at most {error:.1e}."
    )
    sections = [Section("Likelihoods", text, Table(columns, rows, note), _excess(findings, folder))]
    names = list(findings.entries[0].policies)
    ordered = [
        [e.scores, LABELS[e.label], f"{e.nll:.{DIGITS}f}", *(f"{e.policies[name]:.{DIGITS}f}" for name in names)]
        for e in findings.entries
    ]
    text = (
        "A policy that leaves nothing to chance gives every sample one order, and its likelihood is the product along "
        "it (arXiv 2603.01367). With exact scores all orders are the same."
    )
    table = Table(["scores", "", "uniform", *names], ordered, "NLL in nats per sample, exact; ties are shared equally.")
    return [*sections, Section("Along one order", text, table)]


def _excess(findings: TableLikelihoodFindings, folder: Path) -> list[Picture]:
    """How far the bounds of learned scores are above their NLL."""
    series: dict[str, Points] = {}
    for e in findings.of("learned"):
        sizes = [k for k, bound in e.bounds.items() if bound.value - e.nll > ERRORS * bound.standard_error]
        if sizes:
            series[LABELS[e.label]] = (sizes, [e.bounds[k].value - e.nll for k in sizes])
    if not series or max(len(x) for x, _ in series.values()) < 2:
        return []
    path = line_plot(series, folder / "bounds.png", "orders", "bound - NLL (nats)", log_x=True, log_y=True)
    return [Picture(path, "How far the bound from k orders is above the NLL of the network's own law.")]


def bounds_sections(findings: BoundsFindings, folder: Path) -> list[Section]:
    """Bounds of the NLL of a network too large for its law; pictures are drawn into `folder`."""
    f = findings
    text = (
        f"{UNGUIDED}The NELBO is of all {f.num_test:,} test examples, by {f.num_draws} masks each. By how much k "
        f"random orders lower it was measured on {f.num_images:,} of them, along the same orders with the class and "
        "without: every example is compared with itself, which has far less noise than the NELBO of so few."
    )
    return [Section("Likelihoods", text, _table(f), _curve(f, folder)), _alone(f)]


def _table(findings: BoundsFindings) -> Table:
    rows = []
    labels = list(findings.by_label)
    for orders in findings.by_label[labels[0]].falls:
        cells = [f"{orders}" if isinstance(orders, int) else f"1, {orders}"]
        for found in findings.by_label.values():
            bound, fall = found.bound(orders), found.falls[orders]
            bits = bound.bits_per_dim(findings.num_dims)
            cells += [
                f"{bound.value:.2f} ± {bound.standard_error:.2f}",
                f"{bits.value:.4f} ± {bits.standard_error:.4f}",
                f"{fall.value:.2f} ± {fall.standard_error:.2f}",
            ]
        rows.append(cells)
    columns = ["orders"]
    for label in labels:
        columns += [f"{LABELS[label]}: nats", "bits per dimension", "below the NELBO"]
    note = (
        "Upper bounds of the NLL per example, ± standard errors; random orders, or one order of a policy. Below the "
        "NELBO: nats, of the examples taken apart."
    )
    for label, found in findings.by_label.items():
        if found.truth is not None:
            note += f" The data's own distribution, {LABELS[label]}: {found.truth.value:.2f} nats."
    return Table(columns, rows, note)


def _curve(findings: BoundsFindings, folder: Path) -> list[Picture]:
    if len(findings.orders) < 2:
        return []
    series: dict[str, Points] = {}
    bands: dict[str, tuple[list[float], list[float]]] = {}
    for label, found in findings.by_label.items():
        falls = [found.falls[k] for k in findings.orders]
        series[LABELS[label]] = (findings.orders, [fall.value for fall in falls])
        bands[LABELS[label]] = (
            [fall.value - fall.standard_error for fall in falls],
            [fall.value + fall.standard_error for fall in falls],
        )
    path = line_plot(
        series, folder / "bounds.png", "orders", "below the NELBO (nats)", log_x=True, bands=bands,
        colours=dict(zip(series, CYCLE)),
    )  # fmt: skip
    caption = "How far the bound from k orders is below the NELBO: at most the incoherence. Bands: ± standard error."
    return [Picture(path, caption)]


def _alone(findings: BoundsFindings) -> Section:
    rows = [
        [f"{k}", *(f"{v.alone[k].value:.2f} ± {v.alone[k].standard_error:.2f}" for v in findings.by_label.values())]
        for k in findings.orders
    ]
    text = f"The same bounds of the {findings.num_images:,} examples alone, without the NELBO of all the others."
    columns = ["orders", *(LABELS[label] for label in findings.by_label)]
    return Section("The examples taken apart", text, Table(columns, rows, "In nats per example."))
