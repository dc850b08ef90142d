"""A small file of every format that `ablab.judging.logs` reads, written here in the format's own shape."""

from __future__ import annotations

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

SAMPLES = {
    "modded": Sample("5bdc3988.txt", MODDED.encode()),
    "lists": Sample("README.md", LISTS.encode(), 6),
    "golf": Sample("train_seed42.log", golf().encode()),
    "table": Sample("runs.csv", TABLE.encode(), 3),
}
