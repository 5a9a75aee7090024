"""Verifying finds every claim that is not true, and says of each one that it did not check."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.bundles import Document, copy_bundle, document, put, reseal
from tests.support.manifests import measured_fields
from vitaie import runtime
from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import ManifestError, VitaieError
from vitaie.manifests.manifest import Tolerance
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._claim import Claim
from vitaie.runtime._environment import processor, version
from vitaie.runtime._goldens import (
    check_golden_stages,
    check_logits,
    golden_logits,
    relative_difference,
    run_goldens,
    tier_elsewhere,
    tier_here,
)

ONNX, TORCHSCRIPT = "goldens in onnxruntime-cpu-fp32", "goldens in torchscript-cpu-fp32"


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(small_bundle, tmp_path / "bundle")


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch were not installed."""
    monkeypatch.setitem(sys.modules, "torch", None)


def statuses(verdict: runtime.Verdict) -> dict[str, str]:
    return {claim.claim: claim.status for claim in verdict.claims}


def false_claims(bundle: Path) -> list[str]:
    """Verify in the default engine; return what is false, with its detail."""
    verdict = runtime.verify(bundle, target="cpu")
    found = [
        f"{claim.claim}: {claim.detail}" for claim in verdict.claims if claim.status == "false"
    ]
    assert verdict.holds == (not found)
    return found


def verify_refuses(bundle: Path, code: str) -> VitaieError:
    with pytest.raises(VitaieError) as caught:
        runtime.verify(bundle, target="cpu")
    assert (caught.value.code, caught.value.exit_code) == (code, 1), caught.value
    return caught.value


def golden(change: Callable[[Document], object]) -> Callable[[Document], None]:
    """Return a change of the manifest that changes its first golden."""

    def change_manifest(whole: Document) -> None:
        change(whole["goldens"][0])

    return change_manifest


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


# A right bundle


def test_every_claim_of_a_right_bundle_is_listed_and_true(small_bundle: Path) -> None:
    verdict = runtime.verify(small_bundle, target="cpu")
    assert statuses(verdict) == {
        "files": "true",
        "parameters": "true",
        "golden 00 preprocessing": "true",
        "golden 01 preprocessing": "true",
        "golden 02 preprocessing": "true",
        ONNX: "true",
        TORCHSCRIPT: "not checked",
        "architecture and gflop": "not checked",
        "source checkpoint": "not checked",
        "toolchain": "not checked",
        "credits of the goldens": "not checked",
    }
    assert all(claim.detail for claim in verdict.claims)
    assert verdict.holds
    assert verdict.manifest.model_dump(mode="json") == document(small_bundle)


def test_a_number_of_parameters_that_is_not_that_of_the_weights_is_false(bundle: Path) -> None:
    right = document(bundle)["model"]["parameters"]
    reseal(bundle, lambda whole: whole["model"].update(parameters=right + 1))
    assert false_claims(bundle) == [f"parameters: {right:,} in the weights, {right + 1:,} claimed"]


def test_published_figures_are_listed_as_unchecked(bundle: Path) -> None:
    figure = {"source": "a paper", "top1": 84.5, "top5": None}
    reseal(bundle, lambda whole: whole["expected"].update(accuracy=[figure]))
    assert statuses(runtime.verify(bundle, target="cpu"))["published figures"] == "not checked"


@pytest.mark.usefixtures("no_torch")
def test_a_target_that_cannot_run_here_is_said_to_be_unchecked(small_bundle: Path) -> None:
    verdict = runtime.verify(small_bundle)
    assert statuses(verdict)[ONNX] == "true"
    assert statuses(verdict)[TORCHSCRIPT] == "not checked"
    assert "extra [torch]" in str(verdict.claims)
    assert verdict.holds


@pytest.mark.usefixtures("no_torch")
def test_a_target_that_is_asked_for_and_cannot_run_here_is_an_error(small_bundle: Path) -> None:
    for use in (runtime.verify, runtime.load):
        with pytest.raises(runtime.TargetUnavailable) as caught:
            use(small_bundle, target="torchscript-cpu-fp32")
        assert (caught.value.code, caught.value.exit_code) == ("E_EXTRA_MISSING", 6)


def test_each_step_is_announced(small_bundle: Path) -> None:
    said: list[str] = []
    runtime.verify(small_bundle, target="cpu", progress=said.append)
    assert said == ["files", "preprocessing of the goldens", ONNX]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"target": "gpu"}, "E_TARGET_UNKNOWN"),
        ({"target": "auto "}, "E_TARGET_UNKNOWN"),
        ({"threads": 0}, "E_ARGUMENT"),
    ],
)
def test_a_wrong_argument_is_refused(
    small_bundle: Path, arguments: dict[str, Any], code: str
) -> None:
    with pytest.raises(runtime.InputError) as caught:
        runtime.verify(small_bundle, **arguments)
    assert (caught.value.code, caught.value.exit_code) == (code, 2)


def test_a_record_without_evidence_is_false_and_not_measured_again(bundle: Path) -> None:
    evidence = "measurements/performance-0123456789ab.json"
    (bundle / "measurements").mkdir()
    (bundle / evidence).write_bytes(b"{}\n")

    def add(whole: Document) -> None:
        row = {"path": evidence, "role": "measurement", "size": 3}
        whole["artifacts"].append({**row, "sha256": sha256(b"{}\n"), "chunks": []})
        digest = whole["targets"][0]["target_digest"]
        record = {**measured_fields()["performance"][0], "target_digest": digest}
        whole["performance"].append({**record, "latencies": evidence})
        gate = {"require": "fps>=1.0", "target_digest": digest, "verdict": "pass", "reason": ""}
        whole["gates"].append(gate)

    reseal(bundle, add)
    found = statuses(runtime.verify(bundle, target="cpu"))
    assert found["performance[0] evidence"] == found["gates[0]"] == "false"
    assert found["performance[0]"] == "not checked"


# How closely a target must agree


def tier_of(bundle: Path, **arguments: Any) -> tuple[str, str | None]:
    verdict = runtime.verify(bundle, target="cpu", **arguments)
    claim = next(claim for claim in verdict.claims if claim.claim == ONNX)
    return claim.status, claim.tier


def agreement(**change: Any) -> Callable[[Document], None]:
    """Return a change of what a manifest says of the default target's logits when it was built."""

    def change_manifest(whole: Document) -> None:
        whole["targets"][0]["agreement"].update(change)

    return change_manifest


OTHER_BITS = {"logits_sha256": ["0" * 64] * 3}


@pytest.fixture
def built_here(bundle: Path) -> Path:
    """The bundle, its default target's own logits as this environment's engine gives them.

    Another environment may have built it; what is said of the builder is then not of this one.
    """
    with open_bundle(bundle) as opened:
        target = opened.manifest.targets[0]
        tensors, _ = check_golden_stages(opened)
        logits = run_goldens(opened, target, tensors, target.agreement.threads).logits
        expected = [golden_logits(opened, each) for each in opened.manifest.goldens]
        pairs = list(zip((row[0] for row in logits), expected))
    here = processor()
    facts = {
        "max_abs_diff": max(float(np.abs(one - other).max()) for one, other in pairs),
        "max_rel_diff": max(relative_difference(one, other) for one, other in pairs),
        "top1_equal": len(pairs),
        "logits_sha256": [sha256(row.tobytes()) for row in logits],
        "processor": here.model,
        "features": list(here.features),
        "packages": {name: version(name) for name in target.agreement.packages},
    }
    reseal(bundle, agreement(**facts))
    return bundle


def test_on_the_machine_that_built_it_a_target_gives_the_same_bits(built_here: Path) -> None:
    assert tier_of(built_here) == ("true", "exact")
    reseal(built_here, agreement(**OTHER_BITS))
    assert tier_of(built_here) == ("false", "exact")


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"processor": "another"},
        {"features": ["sse2"]},
        {"packages": {"onnxruntime": "1.0.0"}},
        {"packages": {}},
    ],
    ids=str,
)
def test_on_another_machine_a_target_agrees_within_its_tolerance(
    bundle: Path, elsewhere: dict[str, Any]
) -> None:
    reseal(bundle, agreement(**elsewhere, **OTHER_BITS))
    assert tier_of(bundle) == ("true", "close")


def test_with_another_number_of_threads_a_target_agrees_within_its_tolerance(
    built_here: Path,
) -> None:
    reseal(built_here, agreement(threads=3, **OTHER_BITS))
    assert tier_of(built_here, threads=1) == ("true", "close")
    assert tier_of(built_here) == ("false", "exact"), "it is run with 3 threads, as it was"


def test_the_same_bits_are_not_asked_of_a_device(built_here: Path) -> None:
    with open_bundle(built_here) as opened:
        target = opened.manifest.targets[0]
    assert tier_here(target, None) == ("exact", target.agreement.threads)
    assert tier_here(target.model_copy(update={"device": "ascend310p3"}), None)[0] == "close"


def in_half_precision(bundle: Path, cosine: float, sign: int) -> Claim:
    """Judge the goldens' own logits, or their opposites, as a target's of reduced precision.

    No target of the CPU may be one: what is judged here is as if a device had computed it.
    """
    tolerance = Tolerance(max_rel_diff=0.05, cosine=cosine)
    with open_bundle(bundle) as opened:
        target = opened.manifest.targets[0].model_copy(
            update={"device": "ascend310p3", "precision": "fp16", "tolerance": tolerance}
        )
        logits = [
            sign * golden_logits(opened, each)[np.newaxis] for each in opened.manifest.goldens
        ]
        return check_logits(opened, target, logits, tier_elsewhere(target))


@pytest.mark.parametrize(("cosine", "status"), [(0.999, "true"), (0.9, "false")])
def test_in_reduced_precision_the_cosine_decides(
    small_bundle: Path, cosine: float, status: str
) -> None:
    claim = in_half_precision(small_bundle, cosine, 1)
    assert (claim.status, claim.tier) == (status, "reduced")


def test_logits_of_another_direction_are_false_in_reduced_precision(small_bundle: Path) -> None:
    claim = in_half_precision(small_bundle, 0.999, -1)
    assert (claim.status, claim.tier) == ("false", "reduced")


@pytest.mark.parametrize(
    "change",
    [
        {"max_rel_diff": 1e-5},
        {"max_abs_diff": 0.0},
        {"max_abs_diff": 0.5},
        {"max_abs_diff": 1e-9, "max_rel_diff": 1e-9},
        {"top1_equal": 0},
    ],
)
def test_an_agreement_other_than_it_is_found_false_where_the_bits_are_the_same(
    built_here: Path, change: dict[str, Any]
) -> None:
    reseal(built_here, lambda whole: whole["targets"][0]["agreement"].update(change))
    (claim,) = false_claims(built_here)
    assert claim.startswith(ONNX)


@pytest.mark.parametrize(
    "change",
    [
        {"max_abs_diff": 0.5},
        {"max_rel_diff": 1e-5, "max_abs_diff": 0.0},
        {"top1_equal": 0},
    ],
)
def test_an_agreement_that_cannot_be_is_found_false_on_any_machine(
    bundle: Path, change: dict[str, Any]
) -> None:
    def elsewhere(whole: dict[str, Any]) -> None:
        whole["targets"][0]["agreement"].update({"processor": "another", **change})

    reseal(bundle, elsewhere)
    (claim,) = false_claims(bundle)
    assert claim.startswith(ONNX)


def test_torch_has_its_threads_back_after_a_verification(small_bundle: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        verdict = runtime.verify(small_bundle, target="torchscript-cpu-fp32")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert next(c for c in verdict.claims if c.claim == TORCHSCRIPT).status == "true"


# Claims that are false although every digest is right


@pytest.mark.parametrize(
    ("field", "stage"),
    [
        ("decoded_sha256", "decoded"),
        ("crop_sha256", "crop, golden/00.png"),
        ("tensor_sha256", "tensor"),
    ],
)
def test_a_stage_with_another_digest_is_a_false_claim(bundle: Path, field: str, stage: str) -> None:
    reseal(bundle, golden(lambda first: first.update({field: "0" * 64})))
    assert false_claims(bundle) == [f"golden 00 preprocessing: differs at: {stage}"]


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_size_that_is_not_the_pictures_is_a_false_claim(bundle: Path, side: str) -> None:
    reseal(bundle, golden(lambda first: first.update({side: first[side] + 1})))
    assert false_claims(bundle) == ["golden 00 preprocessing: differs at: size"]


def test_a_crop_of_other_pixels_is_a_false_claim(bundle: Path) -> None:
    with Image.open(bundle / "golden/00.png") as picture:
        pixels = np.array(picture)
    pixels[0, 0, 0] ^= 1
    put(bundle, "golden/00.png", png(pixels))
    assert false_claims(bundle) == ["golden 00 preprocessing: differs at: golden/00.png"]


def test_another_photograph_is_a_false_claim(bundle: Path) -> None:
    put(bundle, "golden/00.jpg", (bundle / "golden/01.jpg").read_bytes())
    (claim, *others) = false_claims(bundle)
    assert claim.startswith("golden 00 preprocessing: differs at: ")
    assert claim.endswith("decoded, crop, tensor")
    assert len(others) == 1


def test_other_preprocessing_numbers_are_a_false_claim(bundle: Path) -> None:
    def shift(whole: Document) -> None:
        whole["preprocess"]["mean"][0] = 0.25

    reseal(bundle, shift)
    found = [claim.partition(":")[0] for claim in false_claims(bundle)]
    assert found == [*(f"golden {index:02d} preprocessing" for index in range(3)), ONNX]


def test_logits_that_are_not_the_models_are_a_false_claim(bundle: Path) -> None:
    logits = np.load(bundle / "golden/00.npy") * np.float32(1.001)
    claim_logits(bundle, logits)
    (claim,) = false_claims(bundle)
    assert claim.startswith(ONNX)
    assert "1e-04 allowed" in claim


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30])
def test_logits_that_are_absurd_are_a_false_claim(bundle: Path, value: float) -> None:
    logits = np.load(bundle / "golden/00.npy")
    logits[int(logits.argmin())] = value
    if np.isfinite(value):
        claim_logits(bundle, logits)
        assert len(false_claims(bundle)) == 1
    else:
        put(bundle, "golden/00.npy", npy(logits))
        verify_refuses(bundle, "E_BUNDLE_GOLDEN")


def test_weights_that_are_not_the_goldens_are_a_false_claim(bundle: Path) -> None:
    """A bias of the head changed, every digest right: only the goldens can tell."""
    row = next(row for row in document(bundle)["weights"] if row["name"] == "head.bias")
    data = bytearray((bundle / "model.ts").read_bytes())
    place = slice(row["offset"], row["offset"] + row["length"])
    data[place] = (np.frombuffer(data[place], "<f4") + np.float32(0.5)).tobytes()
    put(bundle, "model.ts", bytes(data))
    assert [claim.partition(":")[0] for claim in false_claims(bundle)] == [ONNX]


def claim_logits(bundle: Path, logits: NDArray[np.float32]) -> None:
    """Ship other logits, and let the golden say the same of them."""
    (bundle / "golden/00.npy").write_bytes(npy(logits))
    first, second = (int(index) for index in np.argsort(-logits, kind="stable")[:2])
    facts = {
        "logits_sha256": sha256(logits.tobytes()),
        "top1": first,
        "top2": second,
        "margin": float(logits[first]) - float(logits[second]),
    }
    reseal(bundle, golden(lambda golden: golden.update(facts)))


# Goldens that contradict themselves


@pytest.mark.parametrize(
    "change",
    [
        {"logits_sha256": "0" * 64},
        {"margin": 123.0},
        {"top1": 4, "top2": 3},
        {"top1": 3, "top2": 4},
    ],
    ids=str,
)
def test_a_golden_that_is_not_its_own_logits_is_refused(
    bundle: Path, change: dict[str, Any]
) -> None:
    reseal(bundle, golden(lambda first: first.update(change)))
    error = verify_refuses(bundle, "E_BUNDLE_GOLDEN")
    assert error.where.endswith("golden/00.npy")
    assert error.field in change
    assert error.expected == str(change[error.field])


LOGITS = np.arange(5, dtype=np.float32)
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }"


def handmade(header: str, *, version: bytes = b"\1\0", length: int | None = None) -> bytes:
    text = header.encode("latin-1") + b"\n"
    size = len(text) if length is None else length
    return b"\x93NUMPY" + version + size.to_bytes(2, "little") + text + LOGITS.tobytes()


NO_LOGITS = {
    "empty": b"",
    "text": b"0 1 2 3 4",
    "float64": npy(LOGITS.astype(np.float64)),
    "big-endian": npy(LOGITS.astype(">f4")),
    "integers": npy(LOGITS.astype(np.int32)),
    "a row": npy(LOGITS[np.newaxis]),
    "one less": npy(LOGITS[:4]),
    "one more": npy(np.append(LOGITS, np.float32(0))),
    "cut off": npy(LOGITS)[:-1],
    "a byte more": npy(LOGITS) + b"\0",
    "structured": npy(np.zeros(5, [("a", "<f4")])),
    "pickled": b"\x80\4K\1.",
    "huge": handmade(HEADER.replace("5", "500000000")),
    "huge and empty": handmade(HEADER.replace("'<f4'", "'|V0'").replace("5", "500000000000")),
    "version 2": handmade(HEADER, version=b"\2\0"),
    "header too short": handmade(HEADER, length=20),
    "header too long": handmade(HEADER, length=70),
    "fortran": handmade(HEADER.replace("False", "True")),
    "code": handmade(HEADER.replace("5", "__import__('os').getpid()")),
    "negative": handmade(HEADER.replace("5", "-5")),
}


@pytest.mark.parametrize("kind", NO_LOGITS)
def test_logits_are_an_npy_of_float32_and_nothing_else(bundle: Path, kind: str) -> None:
    put(bundle, "golden/00.npy", NO_LOGITS[kind])
    error = verify_refuses(bundle, "E_BUNDLE_GOLDEN")
    assert error.expected == ".npy of float32 [5]"


@pytest.mark.parametrize("path", ["golden/00.jpg", "golden/01.png"])
@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xe0 broken"])
def test_a_picture_of_a_golden_that_is_none_is_the_bundles_fault(
    bundle: Path, path: str, data: bytes
) -> None:
    put(bundle, path, data)
    assert verify_refuses(bundle, "E_BUNDLE_GOLDEN").where.endswith(path)


def test_a_picture_too_large_once_resized_is_the_bundles_fault(bundle: Path) -> None:
    put(bundle, "golden/00.jpg", png(np.zeros((1, 2_000_000, 3), np.uint8)))
    verify_refuses(bundle, "E_BUNDLE_GOLDEN")


def test_labels_are_checked_too(bundle: Path) -> None:
    put(bundle, "labels.txt", b"c0\tzero\n")
    verify_refuses(bundle, "E_BUNDLE_LABELS")


@pytest.mark.parametrize("path", ["model.ts", "labels.txt", "golden/02.png"])
def test_a_changed_file_is_refused(bundle: Path, path: str) -> None:
    data = bytearray((bundle / path).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / path).write_bytes(data)
    verify_refuses(bundle, "E_BUNDLE_FILE_DIGEST")


# Large files


def add_large_file(bundle: Path, change: Callable[[Document], object]) -> None:
    """Add 20 MiB that lists the digest of each chunk; change its entry once it is right."""
    (bundle / "targets").mkdir()
    (bundle / "targets" / "large.bin").write_bytes(bytes(20 * 2**20))

    def add(whole: Document) -> None:
        row = {"path": "targets/large.bin", "role": "target", "size": 0, "sha256": "0" * 64}
        whole["artifacts"].append({**row, "chunks": []})

    def spoil(whole: Document) -> None:
        change(whole["artifacts"][-1])

    bare = document(bundle)
    add(bare)
    reseal(bundle, lambda whole: whole.update(artifacts=bare["artifacts"]))
    reseal(bundle, spoil)


def test_a_large_file_is_right_in_its_chunks_and_as_a_whole(bundle: Path) -> None:
    add_large_file(bundle, lambda row: None)
    assert len(document(bundle)["artifacts"][-1]["chunks"]) == 2
    runtime.load(bundle, target="cpu").close()
    assert runtime.verify(bundle, target="cpu").holds


def test_a_wrong_chunk_is_refused(bundle: Path) -> None:
    add_large_file(bundle, lambda row: row["chunks"].__setitem__(1, "0" * 64))
    assert verify_refuses(bundle, "E_BUNDLE_FILE_DIGEST").field == "chunk 1"
    with pytest.raises(runtime.BundleError):
        runtime.load(bundle, target="cpu")


def test_a_digest_of_the_whole_that_is_not_the_chunks_is_refused_by_verify(bundle: Path) -> None:
    add_large_file(bundle, lambda row: row.update(sha256="0" * 64))
    verify_refuses(bundle, "E_BUNDLE_FILE_DIGEST")


@pytest.mark.parametrize(
    ("name", "value"), [("max_rel_diff", 1.0), ("max_rel_diff", 0.0011), ("cosine", 0.99)]
)
def test_a_tolerance_that_proves_nothing_is_refused(bundle: Path, name: str, value: float) -> None:
    reseal(bundle, lambda whole: whole["targets"][0]["tolerance"].update({name: value}))
    with pytest.raises(ManifestError) as caught:
        runtime.verify(bundle)
    assert (caught.value.code, caught.value.field) == (
        *("E_MANIFEST_VALUE", f"targets[0].tolerance.{name}"),
    )


def test_an_agreement_on_images_that_are_not_there_is_false(bundle: Path) -> None:
    def boast(whole: Document) -> None:
        for target in whole["targets"]:
            target["agreement"].update(images=1_000, logits_sha256=["0" * 64] * 1_000)

    reseal(bundle, boast)
    assert statuses(runtime.verify(bundle, target="cpu"))[ONNX] == "false"
