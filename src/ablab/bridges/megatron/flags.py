"""The Megatron flags that ablab knows: type, default, meaning, and which code has them.

Read from Megatron-Core 0.16 as the vpMoE fork has it and from upstream (core 0.20). Defaults are those of the command
line, which differ from those of the configuration classes (softmax in fp32, for one).
"""

from __future__ import annotations

from ablab.bridges.megatron.flag import MegatronFlag, lost, model, refused, runs
from ablab.bridges.megatron.training_flags import TRAINING

SIZES = [
    model("num-layers", "int", None, "layers"),
    model("hidden-size", "int", None, "d_model"),
    model("num-attention-heads", "int", None, "query heads"),
    model("group-query-attention", "on", False, "heads share keys and values"),
    model("num-query-groups", "int", 1, "key and value heads; ignored without --group-query-attention"),
    model("kv-channels", "int", None, "head_dim; hidden-size / heads where not given"),
    model("ffn-hidden-size", "int", None, "width of a dense mlp; 4 x hidden-size where not given"),
    model("seq-length", "int", None, "tokens of a row"),
    model("max-position-embeddings", "int", None, "rows of a learned position table; otherwise only a bound"),
    model("vocab-size", "int", None, "tokens of the vocabulary before padding"),
    model("padded-vocab-size", "int", None, "rows of the embedding"),
    model("make-vocab-size-divisible-by", "int", 128, "the vocabulary is padded to a multiple of this"),
    model("untie-embeddings-and-output-weights", "on", False, "the head has weights of its own"),
]
LAYERS = [
    model("normalization", "str", "LayerNorm", "norm", words=("LayerNorm", "RMSNorm")),
    model("norm-epsilon", "float", 1e-5, "added to the mean square in a norm"),
    model("qk-layernorm", "on", False, "norm on queries and keys, before the rotation"),
    model("softmax-type", "str", "vanilla", "softmax", words=("vanilla", "off-by-one", "learnable")),
    model("disable-bias-linear", "off", True, "no biases in the linear layers", dest="add_bias_linear"),
    model("add-qkv-bias", "on", False, "biases on q, k, v; forced on where linear layers have biases"),
    model("squared-relu", "on", False, "mlp: relu(x)^2"),
    model("swiglu", "on", False, "mlp: gated silu"),
    refused("quick-geglu", "on", False, "mlp: gated x sigmoid(1.702 x)"),
    refused("openai-gelu", "on", False, "mlp: OpenAI's gelu"),
    refused("activation-func-clamp-value", "float", None, "clamps the gated units"),
    refused("glu-linear-offset", "float", 0.0, "added to the linear half of a gated unit"),
    model("value-residual", "on", False, "values mix with the first layer's", code="fork"),
    model("value-residual-init", "float", 1.0, "share of a layer's own values at the start", code="fork"),
    model("window-size", "window", None, "(left, right): keys before and after the current one"),
    model("window-attn-skip-freq", "skip", None, "N: every Nth layer is global; a list: 1 windowed, 0 global"),
    model("use-tpa", "on", False, "tensor product attention on the windowed layers", code="fork"),
    model("tpa-rank", "int", None, "rank of keys and values", code="fork"),
    model("tpa-q-rank", "int", None, "rank of queries", code="fork"),
]
POSITIONS = [
    model(
        "position-embedding-type",
        "str",
        "learned_absolute",
        "how a token knows where it is",
        words=("learned_absolute", "rope", "mrope", "relative", "none"),
        fork_words=("grapem",),
        upstream_words=("yarn",),
    ),
    model("use-rotary-position-embeddings", "on", False, "older spelling of --position-embedding-type rope"),
    model("rotary-base", "int", 10000, "theta"),
    model("rotary-percent", "float", 1.0, "share of head_dim that is rotated"),
    lost("rotary-interleaved", "on", False, "pairs channels (2i, 2i+1) instead of (i, i + d/2)"),
    refused("rotary-seq-len-interpolation-factor", "int", None, "divides positions"),
    refused("use-rope-scaling", "on", False, "Llama 3's scaling of frequencies"),
    lost("rope-scaling-factor", "float", 8.0, "Llama 3's scaling of frequencies"),
    model("no-rope-freq", "skip", None, "N: every Nth layer has no rotation; a list: 1 skips it"),
    model("grape-a", "on", False, "distance bias (ALiBi) on layers without a window", code="fork"),
    model("grapem-learnable-freq", "on", True, "frequencies are learned", code="fork"),
    model("no-grapem-learnable-freq", "off", True, "frequencies fixed", code="fork", dest="grapem_learnable_freq"),
    model("grapem-share-across-heads", "on", True, "one set of frequencies for all heads", code="fork"),
    model("grapem-per-head", "off", True, "frequencies per head", code="fork", dest="grapem_share_across_heads"),
    model("grapem-log-freq-scale", "float", 16.0, "log_freq is kept times this", code="fork"),
]
BALANCES = ("aux_loss", "seq_aux_loss", "global_aux_loss", "sinkhorn", "none")
MIXTURE = [
    model("num-experts", "int", None, "routed experts"),
    model("moe-layer-freq", "skip", 1, "N: layers 1, N+1, 2N+1, ... are mixtures; a list: 1 mixture, 0 dense"),
    model("moe-ffn-hidden-size", "int", None, "width of a routed expert; ffn-hidden-size where not given"),
    model("moe-shared-expert-intermediate-size", "int", None, "total width of the always-on experts"),
    refused("moe-shared-expert-gate", "on", False, "a gate on the shared expert", code="upstream"),
    model("moe-router-topk", "int", 2, "experts per token"),
    model(
        "moe-router-score-function",
        "str",
        "softmax",
        "router scores",
        words=("softmax", "sigmoid"),
        upstream_words=("sqrtsoftplus",),
    ),
    model(
        "moe-router-load-balancing-type",
        "words",
        ["aux_loss"],
        "what keeps experts evenly used",
        words=BALANCES,
        upstream_words=("quantile_balancing",),
    ),
    model("moe-aux-loss-coeff", "floats", [0.0], "weight of the balance loss"),
    model("moe-z-loss-coeff", "float", None, "weight of the router's z-loss"),
    model("moe-router-pre-softmax", "on", False, "softmax before the choice"),
    model("moe-router-num-groups", "int", None, "groups of experts"),
    model("moe-router-group-topk", "int", None, "groups that a token may use"),
    model("moe-router-topk-scaling-factor", "float", None, "sum of the chosen weights"),
    model("moe-router-enable-expert-bias", "on", False, "a bias on the choice, moved towards balance"),
    model("moe-router-bias-update-rate", "float", 1e-3, "step of that bias"),
    model("moe-router-dtype", "str", None, "precision of the router", words=("fp32", "fp64")),
    lost("moe-input-jitter-eps", "float", None, "noise on the router's input"),
    refused("moe-expert-capacity-factor", "float", None, "experts drop tokens beyond this load"),
    refused("moe-apply-probs-on-input", "on", False, "router weights on the experts' input"),
    refused("moe-router-force-load-balancing", "on", False, "random routing"),
    refused("moe-latent-size", "int", None, "experts in a narrower space"),
    lost("moe-use-upcycling", "on", False, "experts copied from a dense checkpoint"),
]
OTHERS = [
    lost("attention-dropout", "float", 0.1, "dropout on attention weights"),
    lost("hidden-dropout", "float", 0.1, "dropout on what is added to the residual stream"),
    lost("attention-softmax-in-fp32", "on", False, "bias and softmax in fp32"),
    lost("apply-query-key-layer-scaling", "on", False, "scores divided by the layer's number, and back"),
    refused("apply-residual-connection-post-layernorm", "on", False, "residual from behind the norm"),
    lost("apply-layernorm-1p", "on", False, "norm weights kept as weight - 1"),
    lost("no-position-embedding", "off", True, "no learned positions", dest="add_position_embedding"),
    lost("relative-attention-num-buckets", "int", 32, "T5 buckets"),
    lost("relative-attention-max-distance", "int", 128, "T5 buckets"),
    refused("multi-latent-attention", "on", False, "latent attention"),
    refused("mtp-num-layers", "int", None, "prediction of several tokens"),
    refused("qk-l2-norm", "on", False, "unit queries and keys"),
    refused("qk-clip", "on", False, "clips attention scores"),
    refused("hybrid-override-pattern", "str", None, "mamba layers"),
    refused("heterogeneous-layers-config-path", "str", None, "a file of layers"),
    refused("spec", "words", None, "a layer written elsewhere"),
    lost("fp16", "on", False, "half precision"),
    lost("fp8-format", "str", None, "8-bit training", words=("e4m3", "hybrid")),
    lost("fp4-format", "str", None, "4-bit training", words=("e2m1",)),
    lost("fp32-residual-connection", "on", False, "residual stream in fp32"),
    lost("tensor-model-parallel-size", "int", 1, "matrices cut over devices"),
    lost("pipeline-model-parallel-size", "int", 1, "layers over devices"),
    lost("context-parallel-size", "int", 1, "rows over devices"),
    lost("expert-model-parallel-size", "int", 1, "experts over devices"),
    lost("expert-tensor-parallel-size", "int", None, "experts cut over devices"),
    lost("sequence-parallel", "on", False, "norms cut over devices"),
    refused("use-checkpoint-args", "on", False, "settings from a checkpoint, which keeps none of the fork's own"),
    lost("load", "str", None, "goes on from a checkpoint"),
    lost("finetune", "on", False, "weights from a checkpoint"),
    lost("pretrained-checkpoint", "str", None, "weights from a checkpoint"),
    lost("flash-decode", "on", False, "a decoding kernel"),
]

FLAGS: dict[str, MegatronFlag] = {f.name: f for f in (*SIZES, *LAYERS, *POSITIONS, *MIXTURE, *OTHERS, *TRAINING)}
FLAGS |= {
    f.name: f
    for f in (
        *runs("bf16 no-persist-layer-norm no-rope-fusion no-bias-gelu-fusion no-bias-swiglu-fusion", "on"),
        *runs("no-bias-dropout-fusion no-masked-softmax-fusion no-gradient-accumulation-fusion use-flash-attn", "on"),
        *runs("moe-grouped-gemm moe-permute-fusion moe-router-fusion moe-per-layer-logging", "on"),
        *runs("moe-use-legacy-grouped-gemm moe-shared-expert-overlap moe-layer-recompute", "on"),
        *runs("use-distributed-optimizer overlap-grad-reduce overlap-param-gather use-mcore-models", "on"),
        *runs("hetereogenous-dist-checkpoint legacy-tokenizer", "on", "fork"),
        *runs("accumulate-allreduce-grads-in-fp32 grad-reduce-in-bf16 cross-entropy-loss-fusion", "on"),
        *runs("log-throughput log-progress log-params-norm log-num-zeros-in-grad log-timers-to-tensorboard", "on"),
        *runs("log-validation-ppl-to-tensorboard log-memory-to-tensorboard use-cpu-initialization", "on"),
        *runs("deterministic-mode recompute-activations no-load-optim no-load-rng no-save-optim no-save-rng", "on"),
        *runs("dataloader-fast-cache-load no-mmap-bin-files sequence-packing enable-experimental", "on"),
        *runs("no-check-for-nan-in-loss-and-grad check-for-nan-in-loss-and-grad auto-detect-ckpt-format", "on"),
        *runs("transformer-impl attention-backend moe-token-dispatcher-type recompute-granularity", "str"),
        *runs("recompute-method distributed-backend cross-entropy-fusion-impl cuda-graph-impl ckpt-format", "str"),
        *runs("save save-interval tensorboard-dir wandb-project wandb-exp-name wandb-save-dir log-interval", "str"),
        *runs("eval-iters num-workers timing-log-level timing-log-option distributed-timeout-minutes", "str"),
        *runs("recompute-num-layers exit-interval exit-duration-in-mins manual-gc-interval ddp-bucket-size", "str"),
        *runs("num-dataset-builder-threads loss-scale initial-loss-scale tensorboard-log-interval", "str"),
        *runs("manual-gc profile use-pytorch-profiler exit-signal-handler calculate-per-token-loss", "on"),
        *runs("recompute-modules profile-ranks", "words"),
    )
}

FORK_ONLY = frozenset(name for name, flag in FLAGS.items() if flag.code == "fork")
