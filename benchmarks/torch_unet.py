"""Training steps and calls of diffusers' `UNet2DModel`, for `benchmarks/unet.py`.

Runs in an environment of its own that has torch and diffusers; gets a shape as JSON, prints the
number of parameters and the operations of a call, then answers each line of standard input, the
name of a job and a number, with the seconds of that many runs of it.
"""

import json
import sys
import time

import torch
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode


def model_of(shape):
    plain = len(shape["channels"]) - 1
    return UNet2DModel(
        sample_size=shape["size"],
        in_channels=shape["colours"],
        out_channels=shape["colours"],
        block_out_channels=tuple(shape["channels"]),
        layers_per_block=shape["layers"],
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        norm_num_groups=shape["channels"][0] // 4,
        attention_head_dim=shape["channels"][-1],
    )


def main(shape):
    torch.manual_seed(0)
    torch.set_num_threads(shape["threads"])
    model = model_of(shape)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x = torch.randn(shape["batch"], shape["colours"], shape["size"], shape["size"])
    t = torch.zeros(shape["batch"])

    def step():
        optimizer.zero_grad()
        torch.mean((model(x, t).sample - x) ** 2).backward()
        optimizer.step()

    @torch.no_grad()
    def call():
        model(x, t)

    with FlopCounterMode(display=False) as counter:
        call()
    print(sum(p.numel() for p in model.parameters()), counter.get_total_flops(), flush=True)
    jobs = {"step": step, "call": call}
    for line in sys.stdin:
        name, count = line.split()
        seconds = []
        for _ in range(int(count)):
            start = time.perf_counter()
            jobs[name]()
            seconds.append(time.perf_counter() - start)
        print(" ".join(map(str, seconds)), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
