"""One model of every family of `timm`, the smallest of the family that comes with random weights, on small images.

`torchvision`, which timm imports, registers operators for its own compiled library; where that library is not there
(`pip install --no-deps torchvision` beside a torch it was not built for) an empty module stands in its place.
"""

from __future__ import annotations

import sys
import types

import torch
from torch import Tensor, nn

sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))

import timm  # noqa: E402  after the line above

#: the smallest of each of the 98 families of timm 1.0.31
NAMES = (
    "beit_base_patch16_224", "eca_botnext26ts_256", "mobileone_s1", "cait_xxs24_224", "coat_tiny", "convit_tiny",
    "convmixer_768_32", "test_convnext", "cpubone_nano", "crossvit_tiny_240", "csatv2", "cs3darknet_focus_s",
    "cspnext_tiny", "davit_tiny", "deepseek_vit_412m", "deit_tiny_patch16_224", "densenet121", "dla46_c", "dpn48b",
    "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "test_efficientnet", "efficientvim_m1",
    "efficientvit_b0", "efficientvit_m0", "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0", "fastvit_t8",
    "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m_enc", "ghostnet_050", "hardcorenas_b", "hgnetv2_b0",
    "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small", "iformer_t", "inception_next_atto", "inception_resnet_v2",
    "inception_v3", "inception_v4", "lcnetv2_small", "levit_128s", "lowformer_b0", "test_mambaout", "test_coatnet",
    "poolformer_s12", "gmlp_ti16_224", "mobilenetv3_small_050", "mobilenetv5_base", "mobilevit_xxs", "mvitv2_tiny",
    "naflexvit_base_patch16_siglip", "nasnetalarge", "nest_tiny", "nextvit_small", "test_nfnet", "pit_ti_224",
    "pnasnet5large", "pvt_v2_b0", "qwen3_vit_88m", "rdnet_tiny", "regnetx_004_tv", "repghostnet_050", "repvit_m1",
    "res2net50_14w_8s", "resnest14d", "test_resnet", "resnetv2_18", "rexnet_100", "selecsls42", "legacy_seresnet18",
    "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_legacy_patch16_224", "tresnet_m",
    "twins_svt_small", "vgg11", "visformer_tiny", "test_vit", "vit_tiny_r_s16_p8_224", "test_vit_relpos",
    "samvit_base_patch16_224", "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw", "legacy_xception",
    "xception41p", "xcit_nano_12_p8_224",
)  # fmt: skip
SIZES = (64, 96, 128, 224)


def make(name: str) -> tuple[nn.Module, tuple[Tensor]]:
    """Returns the model in eval mode, for the smallest image that it takes, and a batch of two images."""
    failures = []
    for size in (*SIZES, timm.create_model(name).default_cfg["input_size"][-1]):
        for options in ({"img_size": size}, {}):
            torch.manual_seed(0)
            try:
                model = timm.create_model(name, num_classes=10, **options).eval()
                images = torch.randn(2, 3, size, size)
                with torch.no_grad():
                    model(images)
                return model, (images,)
            except Exception as error:  # noqa: BLE001  every family says in its own way that a size does not suit it
                failures.append(f"{size} {options}: {type(error).__name__}: {error}")
    raise RuntimeError(f"{name} takes none of these images: {failures[-1]}")


ARCHITECTURES = NAMES
