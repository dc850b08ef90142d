"""A small file of every format that `ablab.judging.logs` reads, written here in the format's own shape."""

from __future__ import annotations

import struct
from typing import NamedTuple


class Sample(NamedTuple):
    """The name of the file, its bytes, and how many runs it holds."""

    name: str
    data: bytes
    runs: int = 1


def golf(seed: int = 42, *, ttt: str = "1.08", nats: str = "2.79", wd: str = "0.095", code: int = 16594) -> str:
    """A log with a list of settings, a training that the clock stopped, and four stages."""
    return f"""Hyperparameters:
  adam_wd: 0.02
  data_dir: ./data/
  is_main_process: True
  local_rank: 0
  logfile: logs/{seed}.txt
  muon_wd: {wd}
  seed: {seed}
  train_batch_tokens: 1000
  world_size: 8
train_shards: 128
val_tokens: 40540160
model_params:35944536
warmup_step: 1/20
0/20000 val_loss: 9.0047 val_bpb: 3.4860
1/20000 train_loss: 9.0055 train_time: 0.0m tok/s: 8000000
4000/20000 train_loss: 2.9091 train_time: 8.4m tok/s: 6234961
4557/20000 val_loss: 2.8129 val_bpb: 1.0889
stopping_early: wallclock_cap train_time: 588119ms step: 4557/20000
pre-quantization post-ema val_loss:2.80977929 val_bpb:1.08775313 eval_time:7438ms
Serialized model: 135431033 bytes
Code size: {code} bytes
Total submission size quantized+brotli: 15992919 bytes
quantized val_loss:2.84004242 val_bpb:1.09946892 eval_time:25390ms
quantized_sliding_window val_loss:2.79676256 val_bpb:1.08271394 eval_time:121183ms
ttt_chunk [3/9] bpb=1.081500 time=3.1s
quantized_ttt val_loss:{nats}241542 val_bpb:{ttt}103103 eval_time:368074ms
"""


TABLE = """arm,seed,val_bpb,steps,note
base,1,1.0811,4550,
base,2,1.0808,4557,"two, of three"
wide,1,1.0790,4400,
wide,2,crashed,12,
"""

MODDED = f"""import torch
val_loss = 0.0
print0(f"step:{{step}}/{{train_steps}} val_loss:{{val_loss:.4f}}")
{"=" * 100}
Running python 3.10.12
{"=" * 100}
step:0/1480 val_loss:10.8258 train_time:0ms step_avg:nanms
step:1/1480 train_loss:10.8258 train_time:120ms step_avg:nanms
step:1375/1480 val_loss:3.2980 train_time:213996ms step_avg:156.77ms
step:1480/1480 val_loss:3.2794 train_time:231289ms step_avg:157.34ms
peak memory allocated: 31373 MiB reserved: 31480 MiB
"""

LISTS = """# A lever

Final validation losses over 3 runs:

```python
[3.2781, 3.2776, 3.2780]
```

H1: gate-split
  losses = [3.2771, 3.2764,
            3.2797]
times = [3.1415, 3.1416]
[[1.1000, 0.0000],
 [6.0209, 4.9209]]
"""

NANOCHAT = """# nanochat training report

## Environment

### Git Information
- Branch: master
- Commit: d575940 (dirty)

## Tokenizer training
- vocab_size: 65,536

| Text Type | Bytes | Ours Ratio |
|-----------|-------|------------|
| news | 1819 | 4.85 |

## Base model training
- run: d26
- depth: 20
- matrix_lr: 0.0200
- Number of parameters: 560,988,160
- Calculated number of iterations: 21,400
- Number of training tokens: 11,219,763,200
- Minimum validation bpb: 0.8120
- Final validation bpb: 0.8121
- Total training time: 171.99m

## Base model loss
- train bpb: 0.8148
- val bpb: 0.8125

## Midtraining
- Minimum validation bpb: 0.3953
"""

TRAINER = """{
  "global_step": 45, "max_steps": 45, "num_input_tokens_seen": 0, "num_train_epochs": 3, "train_batch_size": 2,
  "log_history": [
    {"loss": 8.3368, "step": 10},
    {"eval_loss": 2.4100, "eval_runtime": 9.1, "eval_samples_per_second": 22.6, "step": 20},
    {"loss": 1.2565, "step": 30},
    {"eval_loss": 2.2310, "eval_runtime": 9.0, "eval_samples_per_second": 22.7, "step": 45},
    {"train_loss": 2.38, "train_runtime": 472.0904, "step": 45}
  ],
  "trial_params": null
}
"""

NANOGPT = """Overriding: out_dir = out/base
Overriding: max_iters = 500
Overriding: seed = 7
Overriding: n_embd = 512
tokens per iteration will be: 16,384
number of parameters: 10.65M
step 0: train loss 4.2874, val loss 4.2823
iter 0: loss 4.2649, time 27471.63ms, mfu -100.00%
step 250: train loss 1.9641, val loss 2.0690
iter 250: loss 2.0353, time 5139.23ms, mfu 17.54%
step 500: train loss 1.5264, val loss 1.7270
"""

LLMC = """s:0 eval:0.2462
s:0 tel:11.0058
s:1 trl:10.9834 lr:0.000001 norm:15.21
s:250 tel:6.4610
s:499 trl:5.9012 lr:0.000600 norm:1.02
s:500 tel:5.8723
"""

MEGATRON = """using world size: 1
------------------------ arguments ------------------------
  hidden_size ..................................... 64
  load ............................................ /data/x
  seed ............................................ 1234
  seq_length ...................................... 128
-------------------- end of arguments ---------------------
 [2026-01-01 10:00:00] iteration       10/      20 | consumed samples:           80 | elapsed time per iteration (ms): 250.0 | learning rate: 1.0E-03 | global batch size:     8 | lm loss: 6.912345E+00 | loss scale: 1.0 |
 validation loss at iteration 10 on validation set | lm loss value: 6.500000E+00 | lm loss PPL: 6.651416E+02 |
 [2026-01-01 10:00:05] iteration       20/      20 | consumed samples:          160 | elapsed time per iteration (ms): 150.0 | learning rate: 1.0E-04 | global batch size:     8 | lm loss: 5.812345E+00 | loss scale: 1.0 |
 validation loss at iteration 20 on validation set | lm loss value: 5.712345E+00 | lm loss PPL: 3.025801E+02 |
 validation loss at iteration 20 on test set | lm loss value: 5.800000E+00 | lm loss PPL: 3.302996E+02 |
"""  # noqa: E501

GOLDEN = """{"lm loss": {"start_step": 1, "end_step": 50, "step_interval": 25,
 "values": {"1": 10.81248, "25": 10.79056, "50": 10.24013}},
 "num-zeros": {"start_step": 1, "end_step": 50, "step_interval": 25, "values": {"1": "nan", "25": 2378.0, "50": 2738.0}}}
"""

TORCHTITAN = """# config: llama3_debugmodel
# ngpu: 8
# step loss grad_norm
1 8.023969650268555 1.5995219945907593
10 4.052482604980469 1.8596701622009277
"""

MARIN = """{"runs": [{"run_info": {
  "description": "A small model.", "eval/paloma/c4_en/bpb": 0.9557313919067384, "eval/paloma/c4_en/loss": 3.1000,
  "model_config": {"hidden_dim": 512, "num_layers": 6}, "total_tokens": 2599944192, "training_time": 15009.1,
  "train_config": {"num_train_steps": 4959, "learning_rate": 0.003, "data_seed": 42, "weight_decay": 0.1}
}}]}
"""

HISTORY = """_step,eval/c4_en-validation/CrossEntropyLoss,eval/downstream_bpb/arc_easy_bpb,train/CrossEntropyLoss,batch_size_in_tokens
200,6.0820,2.4916,6.0,524288
400,5.2054,,5.1,524288
600,4.6075,1.9024,4.5,524288
800,,,4.4,524288
"""  # noqa: E501

CHART = """"Step","base-seed1 - eval/loss","base-seed1 - eval/loss__MIN","base-seed1 - eval/loss__MAX","wide-seed1 - eval/loss"
"100","3.50","3.50","3.50","3.45"
"200","3.2510","3.2510","3.2510",""
"""

LINES = """{"_step": 100, "_runtime": 12.5, "train/loss": 4.1, "learning_rate_peak": 0.003}
{"_step": 200, "val/loss": 3.5012, "val/bpb": 1.1702}
{"_step": 300, "val/loss": 3.4103, "val/bpb": 1.1398, "train/loss": 3.2, "samples": {"_type": "table"}}
{"_step": 310, "train/loss": 3.1, "val/loss": "none"}
"""

OLMO = """{"eval/lm/c4_en-validation/CE loss": 3.4521, "eval/lm/c4_en-validation/PPL": 31.567, "train/CE loss": 3.39,
 "optim/total grad norm": 0.2, "eval/downstream/arc_easy (BPB v2)": 1.2031}
"""

SUBMISSION = """{
  "author": "someone", "name": "A lever", "val_bpb": 1.08100, "val_bpb_std": 0.00020, "seeds": [42, 314],
  "seed_results": {
    "42": {"val_bpb": 1.08079, "artifact_bytes": 15991930},
    "314": {"val_bpb": 1.08100, "val_loss": 2.79241, "artifact_bytes": 15992919}
  }
}
"""

VERDICT = """{"study": "global-position", "metric": "nats_per_token", "decided_by": "loss",
 "arms": [{"name": "baseline", "changes": []},
  {"name": "wide", "changes": [{"path": "model.d_model", "before": 256, "after": 512}]}],
 "runs": [
  {"arm": "baseline", "seed": 0, "status": "done", "metrics": {"pre_quant": 3.225579, "post_quant": 3.255184}, "seconds": 9.5},
  {"arm": "wide", "seed": 0, "status": "done", "metrics": {"pre_quant": 3.215579, "post_quant": null}, "tokens": 1000},
  {"arm": "wide", "seed": 1, "status": "failed", "metrics": {}, "fault": "diverged"}
 ]}
"""


def events(*logged: tuple[str, int, float, float]) -> bytes:
    """An event file of (tag, step, wall, value), with checksums of zero: no reader of scalars looks at them."""
    version = _field(3, b"brain.Event:2")
    records = [_number(1, "<d", 1.0) + version]
    for tag, step, wall, value in logged:
        summary = _field(1, _field(1, tag.encode()) + _number(2, "<f", value))
        records.append(_number(1, "<d", wall) + bytes([2 << 3]) + _varint(step) + _field(5, summary))
    return b"".join(struct.pack("<QI", len(one), 0) + one + bytes(4) for one in records)


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _number(number: int, form: str, value: float) -> bytes:
    return bytes([number << 3 | (1 if form == "<d" else 5)]) + struct.pack(form, value)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


LOGGED = (("eval/loss", 100, 10.0, 3.5), ("train/loss", 150, 11.0, 3.25), ("eval/loss", 200, 15.5, 3.2794))

SAMPLES = {
    "modded": Sample("5bdc3988.txt", MODDED.encode()),
    "lists": Sample("README.md", LISTS.encode(), 6),
    "golf": Sample("train_seed42.log", golf().encode()),
    "nanogpt": Sample("train_seed7.log", NANOGPT.encode()),
    "llmc": Sample("main.log", LLMC.encode()),
    "megatron": Sample("stdout.log", MEGATRON.encode()),
    "torchtitan": Sample("llama3.txt", TORCHTITAN.encode()),
    "nanochat": Sample("report.md", NANOCHAT.encode()),
    "wandb": Sample("190M-1xC.csv", HISTORY.encode()),
    "wandb-history": Sample("wandb-history.jsonl", LINES.encode()),
    "wandb-chart": Sample("wandb_export.csv", CHART.encode(), 2),
    "table": Sample("runs.csv", TABLE.encode(), 3),
    "marin": Sample("speedrun_results.json", MARIN.encode()),
    "trainer": Sample("trainer_state.json", TRAINER.encode()),
    "megatron-golden": Sample("golden_values_dev.json", GOLDEN.encode()),
    "verdict": Sample("verdict.json", VERDICT.encode(), 2),
    "olmo": Sample("metrics_step1000.json", OLMO.encode()),
    "submission": Sample("submission.json", SUBMISSION.encode(), 2),
    "tensorboard": Sample("events.out.tfevents.1.host", events(*LOGGED)),
}
