"""The plot and the tables of `README.md`, made from `results.json`."""

import json
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from peers import BASE, JOINS, OURS

mpl.use("svg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)

Figures = dict[str, float]
Results = dict[str, dict[str, list[Figures]]]
Unit = Callable[[float], str]


@dataclass(frozen=True)
class Column:
    """One figure of one scenario."""

    label: str
    scenario: str
    figure: str
    unit: Unit
    lower_is_better: bool = False
    has_ratio: bool = True


def thousands(value: float) -> str:
    """Return a large number in thousands."""
    return f"{value / 1000:,.0f}k"


integer, one_digit, percent = "{:,.0f}".format, "{:,.1f}".format, "{:.0%}".format
RATE, MEMORY = "deliveries_per_second", "kib_per_connection"
PACED, STALLED = "100 publishers, 100/s", "stalled member"
BURSTS = {f"K={burst}": f"fan-out 500, K={burst}" for burst in (1, 4, 16)}
SIZES = {f"{members:,}": f"fan-out {members}, K=4" for members in (10, 100, 1000, 10_000)}

SUMMARY = [
    *(Column(f"deliveries/s {k}", name, RATE, thousands) for k, name in BURSTS.items()),
    Column("echo/s", "echo", "messages_per_second", integer),
    Column("connections/s", "connections", "connections_per_second", integer),
    Column("KiB/connection", "memory, browser", MEMORY, one_digit, lower_is_better=True),
    Column("delivered while one stalls", STALLED, "delivered", percent),
]
TABLES = {
    "fan-out": [Column(k, name, RATE, thousands) for k, name in BURSTS.items()],
    "cpu": [Column(k, name, "cpu_us", "{:.2f}".format) for k, name in BURSTS.items()],
    "client": [
        Column(k, name, "client_share", percent, has_ratio=False) for k, name in BURSTS.items()
    ],
    "latency": [
        Column("p50, ms", PACED, "p50_ms", one_digit),
        Column("p99, ms", PACED, "p99_ms", one_digit),
        Column("delivered", PACED, "delivered", percent, has_ratio=False),
    ],
    "stalled": [
        Column("delivered to the others", STALLED, "delivered", percent, has_ratio=False),
        Column("memory growth, MiB", STALLED, "growth_mib", one_digit, has_ratio=False),
    ],
    "replies": [
        Column("echo/s", "echo", "messages_per_second", integer),
        Column("JSON/s", "json", "messages_per_second", integer),
        Column("connections/s", "connections", "connections_per_second", integer),
    ],
    "replies-cpu": [
        Column("echo, µs", "echo", "cpu_us", one_digit),
        Column("JSON, µs", "json", "cpu_us", one_digit),
    ],
    "floods": [
        Column("p50, ms", "20 floods", "p50_ms", one_digit),
        Column("p99, ms", "20 floods", "p99_ms", one_digit),
    ],
    "memory": [
        Column("client offers compression", "memory, browser", MEMORY, one_digit),
        Column("client does not", "memory, plain", MEMORY, one_digit),
    ],
    "joins": [
        Column(f"{name}: {label}", name, figure, "{:,.2f}".format, has_ratio=False)
        for name in JOINS
        for label, figure in (("CPU, ms", "cpu_ms_per_join"), ("KiB", "kib_per_join"))
    ],
    "rooms": [
        Column(f"{label}, {name}", f"{each} rooms a connection", figure, unit, has_ratio=False)
        for label, figure, unit in (
            ("KiB", "kib_per_member", one_digit),
            ("CPU, µs", "cpu_us", "{:.2f}".format),
        )
        for each, name in ((20, "20 rooms a connection"), (1, "1 room"))
    ],
    "turn": [Column("longest turn, ms", "longest turn", "longest_turn_ms", one_digit)],
    "sizes": [Column(k, name, RATE, thousands) for k, name in SIZES.items()],
}
"""The tables of `benchmarks/README.md`, by the names that its markers give."""


def median(results: Results, peer: str, column: Column) -> float | None:
    """Return the median of all rounds, or `None` if the figure was not measured."""
    rounds = results.get(peer, {}).get(column.scenario, [])
    values = [figures[column.figure] for figures in rounds if column.figure in figures]
    return statistics.median(values) if values else None


def with_room(results: Results) -> Results:
    """Return those of servers that have a room."""
    return {peer: found for peer, found in results.items() if STALLED in found}


def with_ratio(results: Results, peer: str, column: Column, to: str = BASE) -> str:
    """Return a figure and its ratio to that of another server, the tutorial's if none is named."""
    value, base = (median(results, name, column) for name in (peer, to))
    if value is None:
        return ""
    ratio = f" ({value / base:.2f}x)" if base and column.has_ratio else ""
    return column.unit(value) + ratio


def with_mark(results: Results, peer: str, column: Column) -> str:
    """Return a figure, bold where it is better than ours."""
    value, ours = (median(results, name, column) for name in (peer, OURS))
    if value is None:
        return ""
    text = column.unit(value)
    if ours is None or text == column.unit(ours):
        return text
    better = value < ours if column.lower_is_better else value > ours
    return f"**{text}**" if better else text


def table(
    results: Results,
    columns: list[Column],
    cell: Callable[[Results, str, Column], str] = with_ratio,
) -> str:
    """Return a Markdown table with a row for each server that has any of the figures."""
    rows = []
    for peer in results:
        cells = [cell(results, peer, column) for column in columns]
        if any(cells):
            rows.append([peer, *cells])
    head = ["server", *(column.label for column in columns)]
    lines = [f"| {' | '.join(row)} |" for row in [head, *rows]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def conditions(document: dict[str, Any], program: str) -> str:
    """Return how and where something was measured."""
    machine = document["machine"]
    redis = f"Redis {machine['redis']}, " if "redis" in machine else ""
    return (
        f"Measured by `uv run benchmarks/{program} --rounds {document['rounds']} "
        f"--seconds {document['seconds']:g}` on {machine['processor']}, "
        f"Python {machine['python']}, {redis}{machine['date']}."
    )


def blocks(document: dict[str, Any]) -> dict[str, str]:
    """Return the text for each marker."""
    results = document["results"]
    return {
        "conditions": conditions(document, "run.py"),
        "summary": table(with_room(results), SUMMARY, with_mark),
        **{name: table(results, columns) for name, columns in TABLES.items()},
    }


def fill(text: str, by_name: dict[str, str]) -> str:
    """Replace what stands between the markers `<!-- results: name -->` and `<!-- /results -->`.

    Leave the other program's results alone.
    """

    def block(found: re.Match[str]) -> str:
        text = by_name.get(found[2])
        return found[0] if text is None else f"{found[1]}\n{text}\n\n{found[3]}"

    return BLOCK.sub(block, text)


def plot(results: Results, path: Path) -> None:
    """Draw deliveries a second for each server and burst."""
    mpl.rcParams["svg.hashsalt"] = "fan-out"
    names = list(results)[::-1]
    figure, axes = plt.subplots(figsize=(9, 0.62 * len(names) + 1.2))
    shades = ("#0b5563", "#2a9d8f", "#a8d5ba")
    for index, (column, shade) in enumerate(zip(TABLES["fan-out"][::-1], shades, strict=True)):
        values = [(median(results, name, column) or 0) / 1000 for name in names]
        places = [place + (1 - index) * -0.27 for place in range(len(names))]
        bars = axes.barh(places, values, height=0.25, color=shade, label=column.label)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("thousand deliveries a second: 500 members, K messages back to back, one core")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center right", reverse=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def fill_page(folder: Path, by_name: dict[str, str]) -> None:
    """Write this folder's README.md, with the results of another folder, to that one."""
    text = fill((HERE / "README.md").read_text("utf-8"), by_name)
    (folder / "README.md").write_text(text, "utf-8", newline="\n")


def write(folder: Path) -> None:
    """Write the plot and the tables for the `results.json` of a folder."""
    document = json.loads((folder / "results.json").read_text("utf-8"))
    plot(with_room(document["results"]), folder / "fan-out.svg")
    fill_page(folder, blocks(document))
