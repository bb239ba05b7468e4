"""Tiny random models of diffusers' `UNet2DModel`, with what they answer; run where it is installed.

    path/to/python tests/golden/make_diffusers.py tests/golden/diffusers

Writes, for each model, a folder as `save_pretrained` makes it, and expected.npz with z
[B, H, W, C], steps i, classes and the answer.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel

PLAIN = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
MODELS = {
    "ddpm": {**PLAIN, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1},
    "scale_shift": {
        **PLAIN,
        "block_out_channels": (4, 4, 8),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "num_class_embeds": 5,
        "in_channels": 1,
        "out_channels": 1,
        "norm_eps": 1e-6,
    },
    "classes_by_time": {
        **PLAIN,
        "class_embed_type": "timestep",
        "attention_head_dim": None,
        "add_attention": False,
        "center_input_sample": True,
    },
}


def main(folder):
    for seed, (name, settings) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model = UNet2DModel(**settings).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        model.save_pretrained(folder / name, safe_serialization=True)
        z = torch.randn(2, settings["in_channels"], 8, 8, dtype=torch.float64)
        i = torch.tensor([3.0, 741.5], dtype=torch.float64)
        label = None
        if "num_class_embeds" in settings or "class_embed_type" in settings:
            label = torch.tensor([1, 4])
        # The embedding of classes by time stays float32 in diffusers.
        wide = settings.get("class_embed_type") is None
        z, model = (z, model.double()) if wide else (z.float(), model)
        with torch.no_grad():
            y = model(z, i, class_labels=label).sample
        arrays = {"z": z.permute(0, 2, 3, 1), "i": i, "y": y.permute(0, 2, 3, 1)}
        if label is not None:
            arrays["label"] = label
        np.savez(folder / name / "expected.npz", **{k: v.numpy() for k, v in arrays.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
