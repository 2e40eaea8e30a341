"""The columns of summary.csv: one header for serving and training, empty where not applicable."""

from __future__ import annotations

SCHEMA = 5  # of summary.csv
SHORT_HASH = 6  # digits of a config_hash in a run_id
HEADLINES = (  # the figures that have a band
    "capacity_output_tokens_per_s_per_chip",
    "saturation_output_tokens_per_s_per_chip",
    "output_tokens_per_s",
    "tpot_mean_ms",
    "ttft_mean_ms",
    "usd_per_m_output_tokens",
    "j_per_output_token",
)
STEP_HEADLINE = "step_time_s"  # of training
STATUSES = ("ok", "lower_bound", "not_kept", "too_short", "not_applicable")  # of a headline
LIMITS = ("reserved_blocks", "max_num_seqs", "token_budget", "kv_cache", "static_batch")
PROVENANCE = ("measured", "transferred", "extrapolated", "datasheet", "assumed")
_LATENCIES = ("ttft", "tpot", "itl", "e2e")
SUMMARY_COLUMNS: tuple[str, ...] = (
    *[
        "run_id",
        "kind",
        "topology",
        "chip",
        "n_chips",
        "chips_used",
        "devices",
        "workload",
        "model",
        "weights_dtype",
        "kv_dtype",
    ],
    *[
        "plan",
        "tp",
        "pp",
        "dp",
        "ep",
        "cp",
        "attn_dp",
        "replicas",
        "software",
        "scheduler",
        "load",
        "rate_asked_per_s",
        "rate_per_s",
        "concurrency",
    ],
    *[
        "isl_mean",
        "osl_mean",
        "seed",
        "requests",
        "finished",
        "rejected",
        "partial",
        "stable",
        "window_s",
    ],
    *["requests_per_s", "output_tokens_per_s", "input_tokens_per_s", "total_tokens_per_s"],
    *["output_tokens_per_s_per_chip", "tokens_per_s_per_user"],
    *(f"{name}_{stat}_ms" for name in _LATENCIES for stat in ("mean", "p50", "p90", "p99")),
    *["goodput_per_s", "slo", "slo_attainment", "capacity_requests_per_s"],
    *["capacity_output_tokens_per_s_per_chip", "saturation_output_tokens_per_s_per_chip"],
    *(f"limit_{name}" for name in (*LIMITS, "other_ranks")),
    *["kv_tokens", "kv_peak", "preemptions", "prefix_hit_share"],
    *(
        f"share_{name}"
        for name in [
            "compute",
            "weights",
            "kv",
            "tp",
            "pp",
            "ep",
            "dp",
            "host",
            "bubble",
            "idle",
            "lost",
        ]
    ),
    *[
        "step_time_s",
        "train_tokens_per_s_per_chip",
        "tflops_per_chip",
        "mfu",
        "mfu_bf16",
        "hfu",
        "mem_peak_gib",
    ],
    *["chip_usd_per_h", "usd_per_m_output_tokens", "usd_per_m_total_tokens", "usd_per_step"],
    *["usd_per_m_output_tokens_within_slo"],
    *["price_basis", "price_date", "price_currency", "electricity_usd_per_kwh", "pue"],
    *["power_w", "j_per_output_token"],
    *(
        f"{name}_{part}"
        for name in (*HEADLINES, STEP_HEADLINE)
        for part in ("status", "error", "low", "high")
    ),
    *(f"prov_{name}" for name in PROVENANCE),
    *["schema", "version", "config_hash"],
)


def run_id(workload: str, topology: str, config_hash: str) -> str:
    """What a run and the folder of its results are called.

    >>> run_id("chat", "h200_nvl8", "0a1b2c3d4e5f")
    'chat@h200_nvl8-0a1b2c'
    """
    return f"{workload}@{topology}-{config_hash[:SHORT_HASH]}"
