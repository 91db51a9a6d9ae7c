"""Tiny random configurations of `transformers` models: the classes people use, a few thousand weights each.

Every entry gives (model, one batch of inputs). Weights are random and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

Made = tuple[nn.Module, dict[str, Tensor]]

TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
            "max_position_embeddings": 40}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2, "use_cache": False}  # grouped-query attention
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "intermediate_size": 48}  # fmt: skip
SEQ2SEQ = {"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "use_cache": False}  # fmt: skip


def ids(batch: int = 2, length: int = 9) -> Tensor:
    """Returns token numbers. Shapes: [batch, length]."""
    return torch.randint(3, 99, (batch, length))


def text() -> dict[str, Tensor]:
    """Returns tokens with a padding mask."""
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    return {"input_ids": ids(), "attention_mask": mask}


def image(size: int = 32, batch: int = 2) -> dict[str, Tensor]:
    """Returns pixels. Shapes: [batch, 3, size, size]."""
    return {"pixel_values": torch.randn(batch, 3, size, size)}


def encoder(family: str, head: str, **options: Any) -> Callable[[], Made]:
    """Returns a factory of a text model that reads tokens and a mask."""

    def make() -> Made:
        config = getattr(hf, f"{family}Config")(**{**TEXT, **options})
        return getattr(hf, f"{family}{head}")(config), text()

    return make


def causal(family: str, **options: Any) -> Callable[[], Made]:
    """Returns a factory of a language model that reads tokens from the left."""

    def make() -> Made:
        config = getattr(hf, f"{family}Config")(**{**GROUPED, **options})
        return getattr(hf, f"{family}ForCausalLM")(config), {"input_ids": ids()}

    return make


def vision(family: str, *, size: int = 32, head: str = "ForImageClassification", **options: Any) -> Callable[[], Made]:
    """Returns a factory of a model that classifies images."""

    def make() -> Made:
        config = getattr(hf, f"{family}Config")(**options)
        return getattr(hf, f"{family}{head}")(config), image(size)

    return make


def gpt2() -> Made:
    config = hf.GPT2Config(vocab_size=99, n_positions=40, n_embd=32, n_layer=2, n_head=4, use_cache=False)
    return hf.GPT2LMHeadModel(config), text()


def opt() -> Made:
    config = hf.OPTConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48,
                          max_position_embeddings=40, word_embed_proj_dim=32, use_cache=False)  # fmt: skip
    return hf.OPTForCausalLM(config), text()


def bloom() -> Made:
    config = hf.BloomConfig(vocab_size=99, hidden_size=32, n_layer=2, n_head=4, use_cache=False)
    return hf.BloomForCausalLM(config), text()


def t5() -> Made:
    config = hf.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, use_cache=False)
    return hf.T5ForConditionalGeneration(config), {**text(), "decoder_input_ids": ids(2, 5)}


def bart() -> Made:
    config = hf.BartConfig(**SEQ2SEQ, max_position_embeddings=40)
    return hf.BartForConditionalGeneration(config), {**text(), "decoder_input_ids": ids(2, 5)}


def whisper() -> Made:
    config = hf.WhisperConfig(**SEQ2SEQ, num_mel_bins=8, max_source_positions=20, max_target_positions=20,
                              pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)  # fmt: skip
    features = {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": ids(2, 5)}
    return hf.WhisperForConditionalGeneration(config), features


def clip() -> Made:
    config = hf.CLIPConfig(text_config={**TEXT, "eos_token_id": 2}, vision_config=VISION, projection_dim=16)
    return hf.CLIPModel(config), {**text(), **image()}


def sam() -> Made:
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "image_size": 32, "patch_size": 8}
    encoder = {**shape, "num_attention_heads": 4, "output_channels": 16, "window_size": 2, "mlp_dim": 48,
               "global_attn_indexes": [1], "num_pos_feats": 8}  # fmt: skip
    prompt = {"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
               "iou_head_hidden_dim": 16}  # fmt: skip
    config = hf.SamConfig(vision_config=encoder, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    return hf.SamModel(config), {**image(), "input_points": torch.rand(2, 1, 2, 2) * 32,
                                 "input_labels": torch.ones(2, 1, 2, dtype=torch.long)}  # fmt: skip


def detr() -> Made:
    backbone = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
                               out_features=["stage2"])  # fmt: skip
    config = hf.DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
                           backbone_config=backbone, d_model=32, encoder_layers=2, decoder_layers=2,
                           encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
                           decoder_ffn_dim=48, num_queries=6)  # fmt: skip
    mask = torch.ones(2, 32, 32, dtype=torch.long)
    return hf.DetrForObjectDetection(config), {**image(), "pixel_mask": mask}


def mamba() -> Made:
    config = hf.MambaConfig(vocab_size=99, hidden_size=32, state_size=4, num_hidden_layers=2, use_cache=False)
    return hf.MambaForCausalLM(config), {"input_ids": ids(2, 6)}


def wav2vec2() -> Made:
    config = hf.Wav2Vec2Config(vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                               intermediate_size=48, conv_dim=(16, 16), conv_stride=(4, 2), conv_kernel=(8, 4),
                               num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)  # fmt: skip
    return hf.Wav2Vec2ForCTC(config), {"input_values": torch.randn(2, 400)}


def segformer() -> Made:
    config = hf.SegformerConfig(num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32],
                                patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
                                decoder_hidden_size=16)  # fmt: skip
    return hf.SegformerForSemanticSegmentation(config), image()


def layoutlm() -> Made:
    config = hf.LayoutLMConfig(**TEXT, max_2d_position_embeddings=64)
    box = torch.sort(torch.randint(0, 60, (2, 9, 4)), dim=-1).values
    return hf.LayoutLMForTokenClassification(config), {**text(), "bbox": box}


ARCHITECTURES: dict[str, Callable[[], Made]] = {
    "bert": encoder("Bert", "ForSequenceClassification"),
    "roberta": encoder("Roberta", "ForTokenClassification", pad_token_id=1),
    "distilbert": encoder("DistilBert", "ForMaskedLM", dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    "albert": encoder("Albert", "ForSequenceClassification", embedding_size=16),
    "electra": encoder("Electra", "ForQuestionAnswering", embedding_size=16),
    "deberta_v2": encoder("DebertaV2", "ForSequenceClassification", relative_attention=True, position_buckets=8,
                          pos_att_type=["p2c", "c2p"]),
    "layoutlm": layoutlm,
    "llama": causal("Llama"),
    "mistral": causal("Mistral", sliding_window=5),
    "mixtral": causal("Mixtral", num_local_experts=3, num_experts_per_tok=2, experts_implementation="batched_mm"),
    "qwen2": causal("Qwen2", tie_word_embeddings=True),
    "qwen3": causal("Qwen3", head_dim=8),
    "gemma": causal("Gemma", head_dim=8),
    "gemma2": causal("Gemma2", head_dim=8, sliding_window=5),
    "phi": causal("Phi"),
    "gpt_neox": causal("GPTNeoX"),
    "gpt2": gpt2,
    "opt": opt,
    "bloom": bloom,
    "mamba": mamba,
    "t5": t5,
    "bart": bart,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "clip": clip,
    "vit": vision("ViT", **VISION),
    "deit": vision("DeiT", **VISION),
    "beit": vision("Beit", **VISION, use_relative_position_bias=True),
    "dinov2": vision("Dinov2", image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2,
                     num_attention_heads=4),
    "swin": vision("Swin", image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4),
    "convnext": vision("ConvNext", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    "resnet": vision("ResNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    "mobilevit": vision("MobileViT", size=64, image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=2,
                        neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 48], initializer_range=0.3),
    "segformer": segformer,
    "detr": detr,
    "sam": sam,
}  # fmt: skip


def make(name: str) -> Made:
    """Returns the model in eval mode and one batch, the same on every call.

    Class tokens and position tables that begin at zero get values: a norm of a zero token shows nothing but noise.
    """
    torch.manual_seed(0)
    model, inputs = ARCHITECTURES[name]()
    for parameter in model.parameters():
        if parameter.ndim > 2 and not parameter.any():
            nn.init.normal_(parameter)
    return model.eval(), inputs
