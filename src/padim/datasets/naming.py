"""What the names of folders say: good images, others, or ground truth."""

import re
import unicodedata
from pathlib import Path

from padim.datasets.folder import list_folders
from padim.errors import DatasetError, join_names

# Names are compared in any case and width, without digits, spaces and signs: ``i.O.`` is ``io``.
_GOOD = frozenset(
    {"good", "ok", "okay", "normal", "pass", "passed", "gut", "io", "undamaged"}
    | {"nondefective", "nonanomalous", "defectfree", "anomalyfree", "nodefect", "nodefects"}
    | {"noanomaly", "noanomalies", "notdefective", "notanomalous", "notdamaged", "notbroken"}
    | {"bon", "bons", "bonne", "bonnes", "conforme", "conformes", "bueno", "buenos", "bom"}
    | {"buono", "buoni", "goed", "dobre", "годные", "хорошие", "良品", "正常", "合格", "合格品"}
    | {"양품", "정상", "fehlerfrei", "ohnefehler", "ohnedefekt", "ohnedefekte", "sansdéfaut"}
    | {"sansdéfauts", "sindefecto", "sindefectos", "semdefeito", "semdefeitos", "senzadifetto"}
    | {"senzadifetti", "bezwad", "бездефектов"}
)
_NOT_GOOD = frozenset(
    {"ng", "nok", "notok", "ko", "nio", "bad", "reject", "rejects", "rejected", "scrap", "schlecht"}
    | {"fail", "failed", "failure", "failures", "faulty", "broken", "damaged", "nogood", "notgood"}
    | {"defect", "defects", "defective", "anomaly", "anomalies", "anomalous", "abnormal"}
    | {"ausschuss", "fehler", "defekt", "defekte", "mauvais", "défaut", "défauts", "rebut", "malo"}
    | {"malos", "defecto", "defectos", "defectuoso", "defectuosos", "ruim", "defeito", "defeitos"}
    | {"difetto", "difetti", "difettoso", "difettosi", "scarto", "scarti", "wady", "брак", "дефект"}
    | {"дефекты", "不良", "不良品", "不合格", "不合格品", "次品", "缺陷", "异常", "異常", "欠陥"}
    | {"欠陥品", "불량", "불량품", "비정상"}
)
_DENIALS = frozenset(
    {"no", "non", "not", "un", "nicht", "kein", "pas", "não", "nao", "niet", "nie", "не"}
)
_TRUTHS = frozenset(
    {"groundtruth", "gt", "mask", "masks", "label", "labels", "annotation", "annotations"}
    | {"labelme", "segmentation", "segmentations"}
)
_TESTS = frozenset({"test", "testing", "tests"})
_FILLERS = frozenset(
    {"image", "images", "img", "imgs", "part", "parts", "sample", "samples", "train", "training"}
    | {"data", "dataset", "set", "validation", "val", "picture", "pictures", "new"}
)


def means_good(name: str) -> bool:
    """Whether a name says that images show no defect: ``good``, ``OK_images``, ``defect-free``.

    A name that only begins or ends so, such as ``goods`` or ``not_good``, says nothing of the kind.
    """
    return _join_telling(name) in _GOOD


def means_not_good(name: str) -> bool:
    """Whether a name says that images show defects: ``NG``, ``bad_parts``, ``not_good``."""
    if means_good(name):
        return False
    words = _split(name)
    is_denied = bool(_DENIALS.intersection(words) and _GOOD.intersection(words))
    return is_denied or _join_telling(name) in _NOT_GOOD or bool(_NOT_GOOD.intersection(words))


def means_truth(name: str) -> bool:
    """Whether a name says that a folder holds ground truth: ``masks``, ``GT``, ``Ground Truth``."""
    return "".join(_split(name)) in _TRUTHS


def means_not_to_learn(name: str) -> bool:
    """Whether a name says that images are not to be learned from: defects, tests or masks."""
    return means_not_good(name) or means_truth(name) or bool(_TESTS.intersection(_split(name)))


def find_folder(root: Path, way: str) -> Path | None:
    """Find a folder by its way from another, whatever the case of its names; None if there is none.

    Raises:
        DatasetError: Several folders differ in their case alone.
    """
    found = root
    for name in way.split("/"):
        same = [path for path in list_folders(found) if path.name.casefold() == name.casefold()]
        if len(same) > 1:
            raise DatasetError(
                f"{found} has the folders {join_names(path.name for path in same)}, but needs one. "
                "Put their files into one, or rename the others."
            )
        if not same:
            return None
        (found,) = same
    return found


def find_good(root: Path) -> Path | None:
    """Find the folder inside another whose name says that its images are good; None without one.

    Raises:
        DatasetError: There are several.
    """
    good = [path for path in list_folders(root) if means_good(path.name)]
    if len(good) > 1:
        raise DatasetError(
            f"{root} has {len(good)} folders whose names say good "
            f"({join_names(path.name for path in good)}), but needs one to learn from. Put their "
            "images into one, or rename the others."
        )
    return good[0] if good else None


def _split(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", unicodedata.normalize("NFKC", name).casefold())


def _join_telling(name: str) -> str:
    return "".join(word for word in _split(name) if word not in _FILLERS)
