"""The table of runs: a name and a command line each, small, and together over every feature.

A line is what follows ``cluster-sim`` in a shell; one that begins with ``python`` runs a script
instead. It runs in an empty folder that holds a copy of ``inputs``. Runs whose names begin with
``refused`` are those that must end with an error, which is kept as their page.
"""

from __future__ import annotations

SERVE = "run --topo h200_nvl8 --workload llama8b"
CHAT = "run --topo h100_nvl8 --workload llama8b --tp 1 --rate 30 --requests 100"
CAPACITY = "--set workload.sampling_error=20% --set 'workload.osl={fixed: 15}'"
R1 = "--workload deepseek_r1_8chips --requests 40"
TRAIN = "run --topo h100_nvl8 --workload llama3_8b_train"
LLAMA = "run --topo h100_superpod --chips 64 --workload llama3_70b_train"
POD = "collective --topo h100_superpod --chips 64"

RUNS: dict[str, str] = {
    # Serving: both paths, ways to come, plans, engines, makers of chips.
    "serve_fast": CHAT,
    "serve_steps": f"{CHAT} --step-by-step",
    "serve_seeds": f"{CHAT} --seeds 2 --seed 5 --precision bf16",
    "serve_capacity": f"{SERVE} --tp 1 --replicas 1 --requests 1200 {CAPACITY}",
    "serve_capacity_ascend": "run --topo ascend_910b_8 --workload llama8b --tp 1 --replicas 1"
    f" --requests 1000 {CAPACITY}",
    "serve_capacity_unknown": "run --topo h200_nvl8 --workload llama70b --requests 300",
    "serve_slo_never_kept": "run --topo l40s_1 --workload llama8b --requests 800"
    f" --slo ttft=1ms,e2e=2ms,attainment=90% {CAPACITY}",
    "serve_band": f"{SERVE} --tp 2 --concurrency 16 --requests 60 --band run",
    "serve_timeline": f"{SERVE} --concurrency 64 --requests 80 --timeline",
    "serve_owned": f"{CHAT} --set economics.basis=owned --set economics.pue=1.4",
    "serve_overload": f"{SERVE} --tp 1 --replicas 1 --rate 100 --requests 300 --software vllm"
    " --set engine.gpu_memory_utilization=0.2",
    "serve_pipeline": "run --topo h100_nvl8 --workload llama70b --pp 2 --tp 4 --rate 4"
    " --requests 60 --software vllm",
    "serve_offline": "run --topo h200_nvl8 --workload batch_offline --requests 100",
    "serve_offline_vllm": "run --topo b200_nvl8 --workload llama70b_offline --requests 100"
    " --software vllm --tp 2",
    "serve_closed": "run --topo h100_nvl8 --workload llama70b_closed --requests 96"
    " --concurrency 32",
    "serve_classes": "run --topo h200_nvl8 --workload mixed --rate 4 --requests 100",
    "serve_classes_steps": "run --topo h200_nvl8 --workload mixed --rate 8 --requests 40"
    " --step-by-step",
    "serve_sessions": "run --topo h200_nvl8 --workload agentic --rate 1 --requests 120",
    "serve_prefixes": "run --topo h200_nvl8 --workload rag --tp 2 --rate 6 --requests 60"
    " --software sglang",
    "serve_long": "run --topo h200_nvl8 --workload long_context --tp 8 --concurrency 2"
    " --requests 8",
    "serve_moe_auto": "run --topo mi300x_8 --workload mixtral_8x7b --rate 4 --requests 60",
    "serve_moe_mxfp4": "run --topo h100_nvl8 --workload gpt_oss_120b --rate 4 --requests 20"
    " --tp 1 --software trtllm",
    "serve_linear": f"{SERVE} --model qwen3-next-80b --tp 4 --concurrency 4 --requests 12",
    "serve_mamba": f"{SERVE} --model nemotron-h-56b --tp 4 --rate 8 --requests 30",
    "serve_windows": f"{SERVE} --model gemma3-27b --tp 2 --rate 8 --requests 30",
    "serve_config": "run --topo '4 x b200' --workload llama8b --model config.json --tp 1"
    " --concurrency 4 --requests 20",
    "serve_router": f"{CHAT} --set plan.router=power_of_two --slo ttft=80ms,tpot=10ms",
    # DeepSeek with attention groups and spread experts, and its drafts.
    "serve_r1_h200": f"run --topo h200_nvl8 {R1} --tp 1 --attn-dp 8 --ep 8 --rate 1",
    "serve_r1_b200": f"run --topo b200_nvl8 {R1} --plan tp1-ep8-dp8x1 --concurrency 24",
    "serve_r1_gb200": f"run --topo gb200_nvl72 --chips 16 {R1} --tp 1 --attn-dp 16 --ep 16"
    " --rate 2 --software trtllm",
    "serve_r1_steps": f"run --topo b200_nvl8 {R1} --plan tp1-ep8-dp8x1 --concurrency 4"
    " --step-by-step --set 'workload.osl={fixed: 60}'",
    "serve_sparse": f"run --topo b200_nvl8 {R1} --model deepseek-v3.2 --plan tp1-ep8-dp8x1"
    " --concurrency 8",
    "drafts_fast": f"run --topo h200_nvl8 {R1} --tp 1 --attn-dp 8 --ep 8 --rate 1"
    " --set engine.draft_tokens=2",
    "drafts_steps": f"run --topo h200_nvl8 {R1} --tp 1 --attn-dp 8 --ep 8 --rate 1 --step-by-step"
    " --set engine.draft_tokens=3 --set engine.draft_acceptance=0.8",
    "drafts_sglang": f"run --topo b200_nvl8 {R1} --tp 8 --concurrency 16 --software sglang"
    " --set engine.speculative_num_steps=1",
    # Huawei's chips.
    "ascend_910b": "run --topo ascend_910b_8 --workload qwen3_32b --concurrency 16 --requests 60",
    "ascend_910c": "run --topo ascend_910c_8 --workload llama70b --rate 2 --requests 60",
    "ascend_cloudmatrix": f"run --topo cloudmatrix384 --chips 16 {R1} --tp 1 --attn-dp 32 --ep 32"
    " --rate 1",
    # Traces.
    "trace_mooncake": f"{SERVE} --tp 1 --trace mooncake.jsonl --software vllm",
    "trace_neutral": f"{SERVE} --tp 1 --trace neutral.csv --time-scale 2",
    "trace_lengths": f"{SERVE} --tp 1 --trace lengths.csv --concurrency 8",
    "trace_texts": f"{SERVE} --tp 1 --trace talks.json --rate 5",
    # Beside others.
    "beside_flows": f"{SERVE} --tp 2 --rate 5 --requests 8 --background flows:4:seed=1:bytes=1GiB",
    "beside_flows_steps": f"{SERVE} --tp 2 --rate 5 --requests 8 --background"
    " flows:4:seed=1:bytes=1GiB --step-by-step --timeline",
    "beside_all_reduce": f"{SERVE} --tp 8 --rate 5 --requests 5 --background"
    " all_reduce:1GiB:ranks=0-7",
    "beside_process": "python beside.py",
    # A training step: closed form, and events where a timeline or a schedule asks for them.
    "train_llama": LLAMA,
    "train_llama_preset": f"{LLAMA} --plan nemo_h100_bf16 --timeline",
    "train_zero3": f"{TRAIN} --plan bridge_h100",
    "train_jitter": f"{TRAIN} --cp 1 --pp 2 --seed 3 --set workload.jitter=0.02",
    "train_recompute": f"{TRAIN} --cp 1 --tp 2 --pp 2 --vpp 4 --set plan.recompute=full --timeline",
    "train_zb_h1": f"{TRAIN} --cp 1 --pp 4 --set plan.schedule=zb_h1",
    "train_gpipe": f"{TRAIN} --cp 1 --tp 2 --pp 2 --set plan.schedule=gpipe --global-batch 8",
    "train_dualpipe_v": f"{TRAIN} --cp 1 --pp 4 --set plan.schedule=dualpipe_v --timeline",
    "train_ring": f"{TRAIN} --cp 8 --seq-len 32768 --global-batch 16 --set plan.context=ring",
    "train_fsdp": f"{TRAIN} --cp 1 --tp 1 --precision bf16 --set workload.software=torchtitan"
    " --set plan.zero=3 --set plan.shard=4 --set plan.offload.optimizer=50%",
    "train_deepseek": "run --topo gb200_nvl72_pod --chips 256 --workload deepseek_v3_train",
    "train_deepseek_h800": "run --topo h800_pod --chips 2048 --workload deepseek_v3_train"
    " --plan deepseek_h800",
    "train_moe_dualpipe": "run --topo h800_pod --chips 128 --workload moe_train.yaml --timeline",
    "train_mixtral": "run --topo h100_superpod --chips 64 --workload mixtral_8x7b_train",
    "train_qwen_ep": "run --topo h100_superpod --chips 16 --workload qwen3_30b_train"
    " --set plan.routing.kind=power_law",
    "train_lora": "run --topo b200_nvl8 --workload llama2_70b_lora --plan mlperf_b200",
    "train_ascend": "run --topo ascend_910b_pod --chips 64 --workload llama3_8b_train"
    " --precision bf16",
    "train_large": "run --topo h100_superpod --chips 16384 --workload llama3_405b_train",
    # Whole training runs.
    "campaign": f"{TRAIN} --until 20B --set workload.run.tokens=1B"
    " --set workload.run.replications=4",
    "campaign_fleet": "run --topo h100_superpod --chips 128 --workload fleet_train.yaml"
    " --until 300B",
    # Execution traces.
    "replay_chakra": "replay --topo h100_nvl8 step.0.et step.1.et step.2.et step.3.et --timeline",
    "replay_repeat": "replay --topo h100_superpod --chips 16 piece.0.json --ranks 16 --repeat",
    "replay_simai": "replay --topo h100_superpod --chips 16 gpt.txt",
    "replay_unfold": "replay --topo ./oversubscribed.yaml gpt.txt --unfold --ranks 16",
    "replay_aicb": "replay --topo h100_nvl8 calls.csv",
    "replay_ideal": "replay --topo h100_superpod --chips 16 gpt.txt --ideal-network",
    # Collectives.
    "collective_pod": f"{POD} --bytes 1KiB..16GiB",
    "collective_forced": f"{POD} --bytes 1MiB,1GiB --algo ring --proto simple --dtype bf16",
    "collective_sharp": f"{POD} --bytes 1MiB,1GiB --sharp",
    "collective_beside": f"{POD} --op all_to_all --bytes 1MiB,1GiB"
    " --background flows:200:seed=1:bytes=64MiB --background all_reduce:1GiB:ranks=0-511:8",
    "collective_oversubscribed": "collective --topo ./oversubscribed.yaml --op all_to_all"
    " --bytes 1KiB,1MiB,256MiB --seed 3",
    "collective_fat_tree": "collective --topo fat_tree_example --op all_gather --bytes 1MiB,1GiB"
    " --set topology.fabric.oversubscription=2",
    "collective_dragonfly": "collective --topo dragonfly_example --op broadcast --bytes 1MiB,1GiB",
    "collective_torus": "collective --topo tpu_v5p_pod --ranks 0-127 --bytes 1MiB,1GiB",
    "collective_domain": "collective --topo b200_nvl8 --library trtllm_custom --bytes 1KiB..64MiB",
    "collective_experts": "collective --topo gb200_nvl72 --op moe_dispatch"
    " --library trtllm_nvlink_one_sided --bytes 1MiB,64MiB --imbalance 1.3",
    "collective_deepep": "collective --topo h800_pod --chips 64 --op moe_combine"
    " --library deepep_low_latency --bytes 1MiB,64MiB",
    "collective_node_limit": "collective --topo h800_pod --chips 64 --op moe_dispatch"
    " --bytes 1MiB,64MiB --node-limit 4 --top-k 8 --experts 256",
    "collective_hccl": "collective --topo ascend_910b_pod --chips 64 --op reduce_scatter"
    " --bytes 1KiB..1GiB",
    "collective_against": "collective --topo h100_nvl8 --against nccl.txt",
    # What fits, how numbers come about, what is said of what cannot be, and studies.
    "fit_llama": "fit --model llama3.1-70b --chip h100_sxm --software vllm --software sglang",
    "fit_deepseek": "fit --model deepseek-r1 --chip ascend_910c",
    "explain_serving": "explain --topo h200_nvl8 --workload llama70b",
    "explain_training": "explain --topo h100_superpod --chips 64 --workload llama3_70b_train",
    "explain_deepseek": "explain --topo gb200_nvl72_pod --chips 256 --workload deepseek_v3_train",
    "show_topology": "show topology gb200_nvl72",
    "show_model": "show model deepseek-r1",
    "show_config": "show model config.json",
    "refused_serving": f"{SERVE} --model llama3.1-405b --tp 1",
    "refused_training": f"{TRAIN} --cp 1 --dp 8 --model llama2-34b",
    "validate_products": "validate --where chip=h200_sxm --where op=gemm --workers 1",
    "compare_band": "python comparison.py",
}
