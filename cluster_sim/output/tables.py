"""Results as text of at most 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster_sim.errors import counted
from cluster_sim.output.wrapping import columns, fill

if TYPE_CHECKING:
    from cluster_sim.result import Result

LABEL = 11
FAMILY_WORDS = {
    "gemm_math": "GEMM math",
    "gemm_weights": "weights from HBM",
    "attention_prefill": "prompt attention",
    "attention_decode": "KV read",
    "glue": "norms and activations",
    "expert_math": "expert math",
    "expert_weights": "expert weights",
    "linear_attention": "linear attention",
    "state_space": "recurrent states",
    "all_reduce": "all-reduce",
    "expert_exchange": "expert exchange",
    "handoff": "stage hand-offs",
    "swap": "KV swap",
    "host": "host",
    "bubble": "waiting for other ranks",
    "idle": "idle",
    "lost": "lost to others",
}


def number(value: float | None, digits: int = 3) -> str:
    """A figure with three significant digits and thousands separators; '-' for None.

    Beyond 1e12, and for infinity, the shortest form.

    >>> number(5949.7), number(0.6012), number(17.35)
    ('5,950', '0.601', '17.4')
    """
    if value is None:
        return "-"
    if abs(value) >= 1e12:
        return f"{value:.{digits}g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{round(value / 10) * 10:,.0f}"
    if value == 0:
        return "0"
    from math import floor, log10

    decimals = max(0, digits - 1 - floor(log10(abs(value))))
    return f"{value:.{decimals}f}"


def labelled(label: str, text: str) -> str:
    """A paragraph with its label in the first column, wrapped to the page."""
    return fill(text, label.ljust(LABEL), " " * LABEL)


def run_report(result: Result, *, simulated_s: float, folder: str | None) -> str:
    """What ``cluster-sim run`` prints: service, latencies, chip time, cost, energy, trust."""
    row, manifest = result.summary, result.manifest
    parts = [_head(row, manifest, simulated_s), _limits(row, manifest), _latencies(row, manifest)]
    parts += [_classes(manifest), _tail(row, manifest, folder)]
    parts += [band_table(manifest)] if "again" in manifest["bands"] else []
    return "\n\n".join(part for part in parts if part)


def _head(row: Mapping[str, Any], manifest: Mapping[str, Any], simulated_s: float) -> str:
    inputs = manifest["inputs"]
    chip = inputs["chip"]
    memory = f"{chip['memory']['capacity'] / 2**30:.0f} GiB"
    weights, kv = row["weights_dtype"].upper(), row["kv_dtype"].upper()
    precision = f"{weights} weights and KV" if weights == kv else f"{weights} weights, {kv} KV"
    title = f"{row['workload']} on {row['topology']}: {inputs['model']['title']}, {precision}, "
    title += f"{row['n_chips']} x {chip['title']} ({memory})"
    weighed = [c for c in manifest["candidates"] if c["fits"]]
    how = f"auto: best of {len(weighed)} plans that fit" if len(weighed) > 1 else "as given"
    if inputs["workload"]["plan"]["tp"] is None and len(weighed) == 1:
        how = "auto: the only plan that fits"
    replicas = counted(row["replicas"], "replica")
    traffic = f"{inputs['workload']['traffic']}, {row['isl_mean']:,.0f} in / "
    traffic += f"{row['osl_mean']:,.0f} out tokens, {_load(row, manifest)}"
    partial = " (interrupted: partial)" if row["partial"] else ""
    run = f"{counted(row['finished'], 'request')}, {_duration(manifest['service_s'])} of service, "
    run += f"simulated in {simulated_s:.1f} s, seed {row['seed']}{partial}"
    return "\n".join(
        [
            fill(title, rest="  "),
            labelled("plan", f"{replicas} x {_layout(row)}, {row['software']} ({how})"),
            labelled("traffic", traffic),
            labelled("run", run),
        ]
    )


def _layout(row: Mapping[str, Any]) -> str:
    """Degrees of parallelism in words."""
    words = [f"TP{row['tp']}"] if row["tp"] > 1 or row["attn_dp"] == 1 else []
    words += [f"{row['attn_dp']} attention groups"] if row["attn_dp"] > 1 else []
    words += [f"{name.upper()}{row[name]}" for name in ("pp", "ep") if row[name] > 1]
    return " ".join(words)


def _load(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    arrivals, sessions = manifest["inputs"]["workload"]["arrivals"], manifest["sessions"]
    many = "" if sessions is None else f" in {counted(sessions, 'session')}"
    if arrivals["kind"] == "offline":
        return f"all at once{many}"
    if arrivals["kind"] == "closed":
        return f"{counted(row['concurrency'], 'client')} in a closed loop{many}"
    rate = f"{number(row['rate_asked_per_s'] or row['rate_per_s'])} requests/s{many}"
    if arrivals["kind"] == "trace":
        scale = arrivals["time_scale"]
        faster = "" if scale == 1 else f", {number(scale)} times as fast"
        return f"{rate} as in the trace{faster}"
    if arrivals["load"] is not None:
        share, _, reference = str(row["load"]).partition("% ")
        return f"{rate} = {share} % {reference}"
    return rate


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _limits(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """What the machine can serve: rates with half of their 95 % interval, bounds as bounds."""
    capacity, saturation = manifest["capacity"], manifest["saturation"]
    if not saturation or manifest["inputs"]["workload"]["arrivals"]["load"] is None:
        return ""
    lines = [
        _columns("What it can serve", "requests/s", "output tokens/s", "per chip", "$/M output")
    ]
    for label, entry in (("  within the SLO", capacity), ("  flat out, no SLO", saturation)):
        if not entry:
            continue
        if entry["status"] == "not_kept":
            lines.append(f"{label}: not kept at any rate, see the note")
        elif entry["output_tokens_per_s"] is None:
            lines.append(f"{label}: no figure, see the note")
        else:
            lines.append(_served(label, row, entry))
    slo = _slo(manifest["inputs"]["workload"]["slo"])
    slo = "that of each class" if manifest["classes"] else slo
    if capacity and slo:
        first = capacity["first_limit"]
        breaks = f"; {first.upper()} breaks first" if first else ""
        errors = [
            f"{words} +-{entry['error'] * 100:.2g} %"
            for words, entry in (("capacity", capacity), ("flat out", saturation))
            if entry["error"] is not None and entry["output_tokens_per_s"]
        ]
        sampled = f"; 95 % sampling error: {', '.join(errors)}" if errors else ""
        text = f"SLO: {slo}{breaks}{sampled}"
        lines.append(fill(text, "  ", "  "))
    return "\n".join(lines)


def _served(label: str, row: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """The line of a capacity or saturation; of a lower bound the cost is an upper one."""
    least = ">= " if entry["status"] == "lower_bound" else ""
    most = "<= " if least else ""
    usd = entry["usd_per_m_output_tokens"]
    rates = (entry["requests_per_s"], entry["output_tokens_per_s"])
    figures = (*rates, entry["output_tokens_per_s"] / row["chips_used"])
    cost = number(usd) if usd is None else most + number(usd)
    return _columns(label, *(least + number(figure) for figure in figures), cost)


def _columns(label: str, *cells: str) -> str:
    widths = (12, 17, 10, 12)
    return label.ljust(26) + "".join(c.rjust(w) for c, w in zip(cells, widths, strict=True))


def _slo(slo: Mapping[str, Any]) -> str:
    limits = [
        f"{name.upper()} <= {slo[name]:g} s"
        if slo[name] >= 1
        else f"{name.upper()} <= {slo[name] * 1e3:g} ms"
        for name in ("ttft", "tpot", "e2e")
        if slo[name] is not None
    ]
    return f"{slo['attainment'] * 100:g} % of requests {', '.join(limits)}" if limits else ""


def _latencies(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    kept = manifest["limits_kept"]
    label = f"At {number(row['requests_per_s'])} requests/s"
    if row["requests_per_s"] is None:
        label = f"All {counted(row['finished'], 'request')}"
    heads = ("mean", "p50", "p90", "p99")
    lines = [label.ljust(26) + "".join(h.rjust(10) for h in heads) + "within SLO".rjust(14)]
    for name, title, scale in (
        ("ttft", "  TTFT (ms)", 1.0),
        ("tpot", "  TPOT (ms)", 1.0),
        ("itl", "  ITL (ms)", 1.0),
        ("e2e", "  E2E (s)", 1e-3),
    ):
        values = [row[f"{name}_{head}_ms"] for head in heads]
        cells = "".join(number(None if v is None else v * scale).rjust(10) for v in values)
        share = f"{kept[name] * 100:.1f} %".rjust(14) if name in kept else ""
        lines.append(title.ljust(26) + cells + share)
    text = "no rates: see the note"
    if row["output_tokens_per_s"] is not None:
        error = row["output_tokens_per_s_error"]
        unsure = f" (+-{error * 100:.2g} %)" if error and error >= LEAST_ERROR else ""
        text = f"{number(row['output_tokens_per_s'])}{unsure} output and "
        text += f"{number(row['total_tokens_per_s'])} total tokens/s, "
        text += f"{number(row['tokens_per_s_per_user'])} tokens/s/user"
    if row["goodput_per_s"] is not None:
        text += f", goodput {number(row['goodput_per_s'])} req/s"
    if row["prefix_hit_share"] is not None:
        text += f", {row['prefix_hit_share'] * 100:.0f} % of prompt tokens from the prefix cache"
    lines.append(fill(text, "  ", "  "))
    return "\n".join(lines)


def _classes(manifest: Mapping[str, Any]) -> str:
    """The classes of a mix, one a line."""
    if not manifest["classes"]:
        return ""
    rows = [["Class", "requests", "TTFT p50", "p99 (ms)", "TPOT p50", "p99 (ms)", "within SLO"]]
    for entry in manifest["classes"]:
        names = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms")
        share = entry["slo_attainment"]
        kept = "" if share is None else f"{share * 100:.1f} %"
        title = f"  {entry['name']}"
        title = title if len(title) <= 20 else title[:17] + "..."
        figures = (number(entry[name]) for name in names)
        rows.append([title, f"{entry['requests']:,}", *figures, kept])
    return grid(rows)


def _tail(row: Mapping[str, Any], manifest: Mapping[str, Any], folder: str | None) -> str:
    lines = [
        labelled("Chip time", _chip_time(manifest["ledger"])),
        labelled("Limits", _limiting(row, manifest)),
        labelled("Cost", _cost(row, manifest)),
        labelled("Energy", _energy(row)),
        labelled("Trust", _trust(row, manifest)),
    ]
    lines += [labelled("Note", note) for note in manifest["notes"]]
    if folder:
        lines.append(labelled("Files", f"{folder}/summary.csv (+ requests, manifest)"))
    return "\n".join(lines)


def _chip_time(ledger: Mapping[str, float]) -> str:
    total = sum(ledger.values()) or 1.0
    shares = sorted(((s / total, name) for name, s in ledger.items()), reverse=True)
    return ", ".join(
        f"{FAMILY_WORDS[name]} {share * 100:.0f} %" for share, name in shares if share >= 0.005
    )


LIMIT_WORDS = {
    "reserved_blocks": "admission: reserved blocks",
    "max_num_seqs": "max_num_seqs",
    "token_budget": "token budget of a step",
    "kv_cache": "free KV blocks",
    "static_batch": "the static batch",
}
LEAST_ERROR = 0.03  # sampling error of a rate that the page names
LEAST_REFUSED = 0.01  # of the time: below it a limit is not worth a word


def _limiting(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """What the run was limited by: who kept requests waiting for how long, and what the chips were
    busy with.
    """
    ledger = manifest["ledger"]
    owners = {
        "HBM bandwidth": (
            "gemm_weights",
            "expert_weights",
            "attention_decode",
            "linear_attention",
            "state_space",
            "glue",
        ),
        f"{row['weights_dtype'].upper()} math": ("gemm_math", "expert_math", "attention_prefill"),
        "all-reduce latency": ("all_reduce",),
        "expert exchange": ("expert_exchange",),
        "stage hand-offs": ("handoff",),
        "KV swap": ("swap",),
        "waiting for other ranks": ("bubble",),
        "host": ("host",),
        "others on the machine": ("lost",),
    }
    resources = {
        name: sum(ledger.get(family, 0.0) for family in families)
        for name, families in owners.items()
    }
    busy = sum(resources.values()) or 1.0
    ranked = sorted(resources.items(), key=lambda item: -item[1])[:2]
    text = ", ".join(f"{name} {s / busy * 100:.0f} % of busy time" for name, s in ranked)
    refused = sorted(
        ((row[f"limit_{name}"] or 0.0, words) for name, words in LIMIT_WORDS.items()), reverse=True
    )
    waits = [f"{words} {share * 100:.0f} %" for share, words in refused if share >= LEAST_REFUSED]
    if waits:
        text += f"; requests kept waiting by {', '.join(waits)} of the time"
    return f"{text}; KV cache at most {row['kv_peak'] * 100:.0f} % full"


def _cost(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    if row["chip_usd_per_h"] is None:
        return "no price of this chip, see the note"
    chip, economics = manifest["inputs"]["chip"], manifest["inputs"]["economics"]
    basis = "as given" if economics["usd_per_chip_hour"] else manifest["economics"]["basis"]
    text = f"${row['chip_usd_per_h']:.2f} per {chip['title']}-hour ({basis})"
    if row["usd_per_m_output_tokens"] is None:
        return f"{text}; none a token without a rate"
    return f"{text}: ${number(row['usd_per_m_output_tokens'])} per M output tokens"


def _energy(row: Mapping[str, Any]) -> str:
    if row["power_w"] is None:
        return "no power known for this chip"
    text = f"{row['power_w'] / 1e3:.1f} kW at the wall"
    if row["j_per_output_token"] is None:
        return f"{text}; none a token without a rate"
    return f"{text}: {number(row['j_per_output_token'])} J per output token"


def _trust(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    words = {
        "measured": "from measured kernels",
        "transferred": "transferred from a relative",
        "extrapolated": "extrapolated",
        "datasheet": "datasheet",
        "assumed": "assumed",
    }
    shares = [
        f"{manifest['provenance'][name] * 100:.0f} % {text}"
        for name, text in words.items()
        if manifest["provenance"].get(name, 0.0) >= 0.005
    ]
    text = f"busy time {', '.join(shares)}"
    return f"{text}; {words_of_band(manifest)}"


WHOLE = ("recipe ", "set-up ")
HEADLINE_WORDS = {
    "capacity_output_tokens_per_s_per_chip": "capacity, tokens/s/chip",
    "saturation_output_tokens_per_s_per_chip": "flat out, tokens/s/chip",
    "output_tokens_per_s": "output tokens/s",
    "tpot_mean_ms": "mean TPOT (ms)",
    "ttft_mean_ms": "mean TTFT (ms)",
    "usd_per_m_output_tokens": "$ per M output tokens",
    "j_per_output_token": "J per output token",
}
BAND_WORDS = {
    "capacity_output_tokens_per_s_per_chip": "capacity {} to {} output tokens/s/chip",
    "output_tokens_per_s": "{} to {} output tokens/s",
    "tpot_mean_ms": "mean TPOT {} to {} ms",
}


def words_of_band(manifest: Mapping[str, Any]) -> str:
    """Where the first headline of a run lies, and what that comes from."""
    found = manifest["bands"]["headlines"]
    name = next((n for n in BAND_WORDS if n in found and found[n]["base"]), None)
    if name is None:
        return "no headline to put a band around"
    band = found[name]
    text = (
        BAND_WORDS[name].format(number(band["low"]), number(band["high"])) + " with 8 in 10 chance"
    )
    causes: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for part in band["contributions"]:
        cause = (_cause(part), part["provenance"])
        causes.setdefault(cause, []).append((part["effect"], part["sigma"]))
    if not causes:
        return text
    squares = {cause: sum(e * e for e, _ in parts) for cause, parts in causes.items()}
    (words, provenance), square = max(squares.items(), key=lambda item: item[1])
    error = sum(sigma**2 for _, sigma in causes[words, provenance]) ** 0.5
    part_of = "most of it" if 2 * square > sum(squares.values()) else "the largest part"
    return f"{text}, {part_of} from {words} ({provenance}, {error * 100:.0f} %)"


def _cause(part: Mapping[str, Any]) -> str:
    """A residual in words: its operators, or what it is about."""
    if part["families"]:
        family = part["families"][0]
        kind = {"gemm": "GEMM", "expert": "experts"}.get(family.split("_")[0])
        kind = None if family == "expert_exchange" else kind
        return kind or {"attention_decode": "decode attention"}.get(family, FAMILY_WORDS[family])
    words = part.get("words") or str(part["key"])  # files of before have none
    return "what operators leave out" if words.startswith(WHOLE) else words


def band_table(manifest: Mapping[str, Any]) -> str:
    """The bands of a run to first order, and those of its replications."""
    again = manifest["bands"]["again"]
    rows = [["Band, 8 in 10 chance", "run", "low", "high", "again: low", "high"]]
    found = manifest["bands"]["headlines"]
    for name, words in HEADLINE_WORDS.items():
        if name not in found:
            continue
        band = found[name]
        seen = again["headlines"].get(name, {})
        figures = (band["base"], band["low"], band["high"], seen.get("low"), seen.get("high"))
        rows.append([f"  {words}", *(number(figure) for figure in figures)])
    return grid(rows)


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned columns, the first to the left, the others to the right."""
    return columns(rows)
