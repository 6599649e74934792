"""Sizes that the lines of logs tell, whatever else stands on the line."""

import pytest

from pgolf_core.lab.verify.reading.sizes import sizes_of

LINES: dict[str, list[tuple[str, int]]] = {
    "Artifact: 15,944,107 bytes (15.2 MB)": [("artifact", 15_944_107)],
    "artifact_bytes: 16,144,107": [("artifact", 16_144_107)],
    "Total submission size int8+zlib: 15932249 bytes": [("total", 15_932_249)],
    "Serialized model int6+lzma: 15 bytes (payload:1 ratio:3.9x)": [("model", 15)],
    "serialized_model_int8_zlib:9354004 bytes (ratio:3.8x)": [("model", 9_354_004)],
    "Code size (compressed): 41990 bytes": [("code", 41_990)],
    "model_size int8+zlib:15650100 bytes  code:156030 bytes  total:15806130 bytes  limit:16MB(16777216)  FITS":
        [("model", 15_650_100), ("code", 156_030), ("total", 15_806_130)],
    "compressed_blob_bytes:15741300 code_bytes:59480 total:15800780":
        [("model", 15_741_300), ("code", 59_480), ("total", 15_800_780)],
    "final_roundtrip val_loss:3.31 val_bpb:1.29 eval_time:7345ms artifact_bytes:15800780": [("artifact", 15_800_780)],
    "artifact:0.34MB code:174310 total:516790/16000000 (FITS": [("code", 174_310), ("total", 516_790)],
    "Ternary artifact: 15057560 bytes (lzma) = 15.06MB": [("artifact", 15_057_560)],
    "Serialized model (27M params) quantized+brotli: 15975300 bytes": [("model", 15_975_300)],
    "encoder:[0, 1] decoder:[5, 3] Serialized model int6+zstd22: 1597530 bytes": [("model", 1_597_530)],
    "Total artifact: 8,853,380 bytes": [("total", 8_853_380)],
    "wandb_step " * 100 + "; 'artifact' : 15,944,107 bytes": [("artifact", 15_944_107)],
    "code_bytes: 1.5 code=41990, x" + "y" * 101 + "artifact: 15944107": [("code", 41_990), ("artifact", 15_944_107)],
    "serialized_artifact_lzma:60603970 bytes": [("model", 60_603_970)],
    '{"seed": 42, "val_bpb": 1.06, "artifact_bytes": 15978000, "code_bytes": 53880}':
        [("artifact", 15_978_000), ("code", 53_880)],
    "int8_zlib:3554680 code:42190 total:3596870 payload_ratio:3.53x budget_pct:22.5%":
        [("model", 3_554_680), ("code", 42_190), ("total", 3_596_870)],
    "  zstd: 17004290 bytes = 17.00MB": [], "zlib size: 17573050 bytes": [],
    "raw_model:14437770 code:42190 total:14479960": [("code", 42_190)], "a:1234 code:5678 total:9012": [],
    "Total submission size: 87469373 bytes": [], "Serialized model fp32/bf16: 11068261 bytes": [],
    "Total submission size raw: 110145145 bytes": [], "Total size: 15.9 MB": [], "Artifact: out/model.ptz": [],
    "target_artifact_bytes:16000000 headroom:199201": [], "Paid prefix blob: 4172268 bytes": [],
    "int8_payload_bytes:145764776 baseline_tensor_bytes:290914344": [], "total_tokens:62021632": [],
    "saved_model:logs/a_mlx_model.npz bytes:1206844": [], "ngram: hints total=47851520 gated=628130": [],
    "batch size total: 524288": [], "  16MB budget remaining: 7,146,620 bytes": [],
    "limit_bytes:16777216 submission_limit_16mb:True": [], "total_val_bytes: 151080363": [],
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_sizes_are_told_by_their_words_and_those_of_other_things_are_none(line: str):
    assert list(sizes_of(line)) == LINES[line]
