"""Makes tests/golden/detection.json: boxes that detectors' heads hold, by numpy and torchvision's non-maximum suppression,
and average precision by COCO's own evaluation.

Needs numpy, torch, torchvision and pycocotools. The same bytes every time.
"""
import contextlib
import io
import json
import pathlib

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import batched_nms

OUT = pathlib.Path(__file__).parents[2] / "tests/golden/detection.json"
random = np.random.RandomState(0)
CLASSES, SIZE, PICTURE = 3, (64, 96), (128, 384)  # height, width


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def corners(xywh):
    xy, half = xywh[:, :2], xywh[:, 2:] / 2
    return np.concatenate([xy - half, xy + half], 1)


def some_boxes(n):
    """Centre and sides in pixels of the input, some nearly the same."""
    xywh = np.stack([random.uniform(0, SIZE[1], n), random.uniform(0, SIZE[0], n), random.uniform(8, 40, n), random.uniform(8, 40, n)], 1)
    xywh[n // 2 :] = xywh[: n - n // 2] + random.uniform(-3, 3, (n - n // 2, 4))
    return xywh


def yolov5():
    rows = np.concatenate([some_boxes(40), random.uniform(0, 1, (40, 1 + CLASSES))], 1).astype(np.float32)
    return [rows], corners(rows[:, :4]), rows[:, 4:5] * rows[:, 5:]


def yolov8():
    rows = np.concatenate([some_boxes(40), random.uniform(0, 1, (40, CLASSES)) ** 2], 1).astype(np.float32)
    return [np.ascontiguousarray(rows.T)], corners(rows[:, :4]), rows[:, 4:]


def fastestdet():
    rows, columns = SIZE[0] // 16, SIZE[1] // 16
    raw = random.uniform(-1, 1, (5 + CLASSES, rows, columns)).astype(np.float32)
    raw[0], raw[5:] = sigmoid(raw[0] * 2), np.exp(raw[5:] * 2) / np.exp(raw[5:] * 2).sum(0)
    y, x = np.mgrid[:rows, :columns]
    xywh = np.stack([(np.tanh(raw[1]) + x) / columns * SIZE[1], (np.tanh(raw[2]) + y) / rows * SIZE[0],
                     sigmoid(raw[3]) * SIZE[1], sigmoid(raw[4]) * SIZE[0]], -1).reshape(-1, 4)
    scores = raw[0] ** 0.6 * raw[5:] ** 0.4
    return [raw], corners(xywh), scores.reshape(CLASSES, -1).T


def scores_with_background(n):
    logits = np.exp(random.uniform(-2, 2, (n, 1 + CLASSES)))
    return (logits / logits.sum(1, keepdims=True)).astype(np.float32)


def ultraface():
    scores, scale = scores_with_background(40), np.array([SIZE[1], SIZE[0]] * 2)
    boxes = (corners(some_boxes(40)) / scale).astype(np.float32)
    return [scores, boxes], boxes * scale, scores[:, 1:]


def ultraface_priors():
    priors = []
    for stride, sides in zip([8, 16, 32, 64], [[10, 16, 24], [32, 48], [64, 96], [128, 192, 256]]):
        for y in range(-(-SIZE[0] // stride)):
            for x in range(-(-SIZE[1] // stride)):
                priors += [[(x + 0.5) * stride / SIZE[1], (y + 0.5) * stride / SIZE[0], s / SIZE[1], s / SIZE[0]] for s in sides]
    priors = np.clip(np.array(priors), 0, 1)
    scores = scores_with_background(len(priors))
    offsets = random.uniform(-2, 2, (len(priors), 4)).astype(np.float32)
    xywh = np.concatenate([priors[:, :2] + offsets[:, :2] * 0.1 * priors[:, 2:], priors[:, 2:] * np.exp(offsets[:, 2:] * 0.2)], 1)
    return [scores, offsets], corners(xywh * np.array([SIZE[1], SIZE[0]] * 2)), scores[:, 1:]


def answer(boxes, scores, confidence, iou, letterbox):
    """The boxes of the surest class of each anchor, suppressed, in pixels of the picture."""
    label, score = scores.argmax(1), scores.max(1)
    at = np.flatnonzero(score >= confidence)
    boxes, label, score = (torch.tensor(np.ascontiguousarray(v[at])) for v in (boxes.astype(np.float64), label, score.astype(np.float64)))
    kept = batched_nms(boxes, score, label, iou)
    scale = np.array([SIZE[1] / PICTURE[1], SIZE[0] / PICTURE[0]])
    offset = np.zeros(2)
    if letterbox:
        scale[:] = scale.min()
        offset = (np.array([SIZE[1], SIZE[0]]) - scale * np.array([PICTURE[1], PICTURE[0]])) / 2
    found = (boxes[kept].numpy().reshape(-1, 2, 2) - offset) / scale
    found = np.clip(found, 0, [PICTURE[1], PICTURE[0]]).reshape(-1, 4)
    seen = (found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])
    rows = zip(label[kept].tolist(), score[kept].tolist(), found.tolist())
    return [[c, round(s, 6), [round(v, 4) for v in b]] for (c, s, b), seen in zip(rows, seen) if seen]


def heads():
    cases = []
    for make, head, confidence, iou, fit in [
        (yolov5, "yolov5", 0.3, 0.45, "letterbox"), (yolov8, "yolov8", 0.25, 0.7, "letterbox"),
        (yolov8, "yolov8", 0.25, 0.5, "stretch"), (fastestdet, "fastestdet", 0.5, 0.45, "stretch"),
        (ultraface, {"ultraface": {}}, 0.5, 0.3, "stretch"), (ultraface_priors, "priors", 0.6, 0.3, "stretch"),
    ]:
        outputs, boxes, scores = make()
        outputs = [[float(f"{v:.9g}") for v in output.ravel().tolist()] for output in outputs]
        found = answer(boxes, scores, confidence, iou, fit == "letterbox")
        assert 5 < len(found) < 300, len(found)
        cases.append({"head": head, "confidence": confidence, "iou": iou, "fit": fit, "outputs": outputs, "boxes": found})
    return {"size": SIZE, "picture": PICTURE, "classes": CLASSES, "cases": cases}


def precision():
    """Pictures with true and found boxes (left, top, width, height), and what pycocotools makes of them."""
    classes, truth, found = 5, [], []
    for image in range(40):
        width, height = 320, 240
        for _ in range(random.randint(0, 7)):
            box = [int(v) for v in (random.randint(0, 250), random.randint(0, 180), random.randint(8, 70), random.randint(8, 60))]
            kind, crowd = int(random.randint(0, classes - 1)), int(random.uniform() < 0.08)
            truth.append({"image": image, "class": kind, "box": box, "crowd": crowd})
            for _ in range(random.randint(0, 4)):
                near = [round(v + float(random.normal(0, 3)), 2) for v in box]
                if near[2] > 1 and near[3] > 1:
                    found.append({"image": image, "class": kind, "box": near, "score": random.randint(20, 64) / 64})
        for _ in range(random.randint(0, 6) + (150 if image == 7 else 0)):
            box = [int(random.randint(0, 250)), int(random.randint(0, 180)), int(random.randint(8, 70)), int(random.randint(8, 60))]
            kind = 2 if image == 7 else int(random.randint(0, classes))
            found.append({"image": image, "class": kind, "box": box, "score": random.randint(1, 50) / 64})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "width": width, "height": height} for i in range(40)],
        "categories": [{"id": c} for c in range(classes)],
        "annotations": [{"id": n + 1, "image_id": t["image"], "category_id": t["class"], "bbox": t["box"], "iscrowd": t["crowd"],
                         "area": t["box"][2] * t["box"][3]} for n, t in enumerate(truth)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        results = coco.loadRes([{"image_id": f["image"], "category_id": f["class"], "bbox": f["box"], "score": f["score"]} for f in found])
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = evaluation.eval["precision"][:, :, :, 0, 2]  # thresholds, recalls, classes; all areas, 100 boxes
    per_class = [None if (values[:, :, c] < 0).all() else [values[0, :, c].mean(), values[:, :, c].mean()] for c in range(classes)]
    return {"images": 40, "classes": classes, "truth": truth, "found": found, "per_class": per_class,
            "mAP50": evaluation.stats[1], "mAP50-95": evaluation.stats[0]}


OUT.write_text(json.dumps({"heads": heads(), "precision": precision()}, separators=(",", ":")) + "\n")
print(OUT, OUT.stat().st_size)
