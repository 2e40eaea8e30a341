"""The columns of summary.csv: one header for serving and training, empty where not applicable."""

from __future__ import annotations

SCHEMA = 4  # of summary.csv
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
    *["power_w", "j_per_output_token"],
    *(f"{name}_{end}" for name in (*HEADLINES, STEP_HEADLINE) for end in ("low", "high")),
    *["prov_measured", "prov_transferred", "prov_extrapolated", "prov_datasheet", "prov_assumed"],
    *["schema", "version", "config_hash"],
)
