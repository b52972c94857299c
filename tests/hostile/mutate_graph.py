"""Changes to graphs: to ONNX by its fields, to OpenVINO by its elements and its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hostile.mutate_bytes import INTERESTING, LARGEST, mutate_bytes
from hostile.mutate_json import mutate_json, mutate_value

_OPERATORS = (
    "Identity", "Add", "Conv", "Loop", "If", "Scan", "ConstantOfShape", "RandomNormal", "Range",
    "Expand", "Tile", "Resize", "Einsum", "Reshape", "Gather", "Pow", "Exp", "Log", "Sqrt", "Where",
    "NonZero", "Transpose", "MatMul", "Softmax", "Cast", "Pad", "StringNormalizer", "PyOp",
)  # fmt: skip
_LAYERS = (
    "Parameter", "Const", "Result", "Convolution", "Broadcast", "Loop", "If", "Interpolate", "Tile",
    "Range", "Reshape", "Multiply", "Log", "Sqrt", "ReadValue", "Assign", "ShapeOf", "Abs",
)  # fmt: skip
_SHAPES = ((1 << 16, 1 << 16), (1 << 31,), (40_000, 100_000), (0,), (-1,), (LARGEST,), (1,) * 40)


def mutate_onnx(random: Random, content: bytes, other: bytes) -> tuple[bytes, str]:
    """Change an ONNX file by its fields, or as bytes."""
    if random.random() < 0.3:
        return mutate_bytes(random, content, other)
    if random.random() < 0.15:
        return _mutate_wire(random, content)
    model = onnx.load_model_from_string(content)
    way = random.choice((*_WAYS, "said", "said", "said"))
    what = _mutate_said(random, model) if way == "said" else _WAYS[way](random, model)
    return model.SerializeToString(), f"{way} {what}"


def mutate_openvino(random: Random, path: Path) -> str:
    """Change an ``.xml`` or the ``.bin`` beside it, in place."""
    weights = path.with_suffix(".bin")
    chance = random.random()
    if chance < 0.3:
        changed, what = mutate_bytes(random, weights.read_bytes(), path.read_bytes())
        weights.write_bytes(changed)
        return f".bin {what}"
    if chance < 0.5:
        changed, what = mutate_bytes(random, path.read_bytes(), weights.read_bytes())
        path.write_bytes(changed)
        return what
    tree = ElementTree.parse(path)
    what = _mutate_element(random, tree.getroot())
    tree.write(path, encoding="utf-8", xml_declaration=True)
    return what


def _mutate_said(random: Random, model: Any) -> str:
    (entry,) = [one for one in model.metadata_props if one.key == "padim"]
    if random.random() < 0.8:
        changed, what = mutate_value(random, json.loads(entry.value))
        entry.value = json.dumps(changed).encode("utf-8", "replace").decode()
    else:
        text, what = mutate_json(random, json.loads(entry.value))
        entry.value = text.decode("utf-8", "replace")
    if random.random() < 0.05:
        model.metadata_props.add(key="padim", value="{}")
        return "twice"
    return what


def _mutate_operator(random: Random, model: Any) -> str:
    node = random.choice(model.graph.node)
    before = node.op_type
    node.op_type = random.choice(_OPERATORS)
    if random.random() < 0.1:
        node.domain = random.choice(("com.microsoft", "ai.onnx.ml", "x"))
    return f"{before} to {node.op_type}"


def _mutate_attribute(random: Random, model: Any) -> str:
    node = random.choice([node for node in model.graph.node if node.attribute])
    attribute = random.choice(node.attribute)
    if attribute.ints:
        attribute.ints[random.randrange(len(attribute.ints))] = random.choice((*INTERESTING, -1))
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = random.choice((0.0, float("nan"), float("inf"), -1.0, 1e30))
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = random.choice((b"", b"nearest", b"x" * 1000, b"\xff"))
    else:
        attribute.i = random.choice((*INTERESTING, -1, LARGEST))
    return f"{node.op_type}.{attribute.name}"


def _mutate_edge(random: Random, model: Any) -> str:
    node = random.choice(model.graph.node)
    names = [name for one in model.graph.node for name in (*one.input, *one.output)]
    ends = random.choice([end for end in (node.input, node.output) if end])
    ends[random.randrange(len(ends))] = random.choice((*names, "", "none"))
    return f"of {node.op_type}"


def _mutate_nodes(random: Random, model: Any) -> str:
    nodes = list(model.graph.node)
    way = random.choice(("drop", "repeat", "shuffle", "none"))
    if way == "drop":
        del nodes[random.randrange(len(nodes))]
    elif way == "repeat":
        nodes.insert(random.randrange(len(nodes)), random.choice(nodes))
    elif way == "shuffle":
        random.shuffle(nodes)
    else:
        nodes = []
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return way


def _mutate_tensor(random: Random, model: Any) -> str:
    tensor = random.choice(model.graph.initializer)
    way = random.choice(("values", "values", "dims", "type", "cut", "external", "float_data"))
    if way == "values":
        array = numpy_helper.to_array(tensor).copy()
        if array.size:
            array.flat[random.randrange(array.size)] = random.choice((0, 1, 2, 100))
            if array.dtype.kind == "f" and random.random() < 0.5:
                array.flat[random.randrange(array.size)] = random.choice((np.nan, np.inf, 1e4))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    elif way == "dims":
        del tensor.dims[:]
        tensor.dims.extend(random.choice(_SHAPES))
    elif way == "type":
        tensor.data_type = random.choice((*range(24), 255))
    elif way == "cut":
        tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)]
    elif way == "external":
        names = ("../m.onnx", "/etc/passwd", "/dev/zero", "m.onnx", "")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=random.choice(names))
    else:
        tensor.float_data.extend([1.0] * 10)
    return f"{tensor.name} {way}"


def _insert_large(random: Random, model: Any) -> str:
    """Add a node that asks for much more than the file holds."""
    graph = model.graph
    shape = random.choice(_SHAPES[:3])
    graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "asked"))
    if random.random() < 0.5:
        graph.node.insert(0, helper.make_node("ConstantOfShape", ["asked"], ["large"]))
    else:
        graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
        graph.node.insert(0, helper.make_node("Expand", ["one", "asked"], ["large"]))
    graph.node.insert(1, helper.make_node("ReduceMax", ["large"], ["most"], keepdims=0))
    output = random.choice(graph.output)
    for node in graph.node:
        for i, name in enumerate(node.output):
            node.output[i] = "before" if name == output.name else name
    graph.node.append(helper.make_node("Add", ["before", "most"], [output.name]))
    return f"{shape}"


def _mutate_ends(random: Random, model: Any) -> str:
    graph = model.graph
    ends = random.choice((graph.input, graph.output))
    end = random.choice(ends)
    way = random.choice(("name", "type", "shape", "twice", "drop"))
    if way == "name":
        end.name = random.choice(("", "x", graph.output[0].name))
    elif way == "type":
        end.type.tensor_type.elem_type = random.choice(range(20))
    elif way == "shape":
        shape = random.choice(_SHAPES)
        del end.type.tensor_type.shape.dim[:]
        for n in shape:
            end.type.tensor_type.shape.dim.add(dim_value=n)
    elif way == "twice":
        ends.append(end)
    else:
        ends.remove(end)
    return way


def _mutate_version(random: Random, model: Any) -> str:
    number = random.choice((*INTERESTING, LARGEST))
    if random.random() < 0.5:
        model.ir_version = number
    else:
        random.choice(model.opset_import).version = number
    return f"{number}"


_WAYS: dict[str, Callable[[Random, Any], str]] = {
    "operator": _mutate_operator,
    "attribute": _mutate_attribute,
    "edge": _mutate_edge,
    "nodes": _mutate_nodes,
    "tensor": _mutate_tensor,
    "large": _insert_large,
    "ends": _mutate_ends,
    "version": _mutate_version,
}


def _mutate_wire(random: Random, content: bytes) -> tuple[bytes, str]:
    """Change a field of the outermost message, whatever it means."""
    fields, at = [], 0
    while at < len(content):
        start = at
        tag, at = _read_varint(content, at)
        n_bytes, after = _read_varint(content, at)
        at = after + (n_bytes if tag & 7 == 2 else 0)
        fields.append(content[start:at])
    i = random.randrange(len(fields))
    way = random.choice(("drop", "repeat", "swap", "unknown", "length", "shuffle"))
    if way == "drop":
        del fields[i]
    elif way == "repeat":
        fields.insert(i, fields[i])
    elif way == "swap":
        to = random.randrange(len(fields))
        fields[i], fields[to] = fields[to], fields[i]
    elif way == "unknown":
        fields.append(b"\xfa\x3f" + b"\x05" + random.randbytes(5))
    elif way == "length":
        fields[i] = (
            fields[i][:1] + random.choice((b"\xff" * 9 + b"\x01", b"\0", b"\x7f")) + fields[i][2:]
        )
    else:
        random.shuffle(fields)
    return b"".join(fields), f"field {i} {way}"


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def _mutate_element(random: Random, root: ElementTree.Element) -> str:
    elements = list(root.iter())
    said = root.find("rt_info/padim")
    way = random.choice(
        ("attribute", "attribute", "drop", "repeat", "text", "layer", "said", "said")
    )
    if way == "said" and said is not None:
        changed, what = mutate_json(random, json.loads(said.get("value", "{}")))
        said.set("value", changed.decode("utf-8", "replace").replace("\0", ""))
        return f"said {what}"
    parent = random.choice([one for one in elements if len(one)])
    child = random.choice(list(parent))
    if way == "drop":
        parent.remove(child)
    elif way == "repeat":
        parent.append(child)
    elif way == "text":
        child = random.choice([one for one in elements if one.text and one.text.strip()])
        child.text = str(random.choice((*INTERESTING, -1, LARGEST, "", "x")))
    elif way == "layer":
        child = random.choice(list(root.iter("layer")))
        child.set("type", random.choice(_LAYERS))
    else:
        child = random.choice([one for one in elements if one.attrib])
        name = random.choice(list(child.attrib))
        odd = (*INTERESTING, -1, LARGEST, "", "x", "f64", "i4", "boolean", "1,1,1", "9" * 30)
        child.set(name, str(random.choice(odd)))
        return f"{child.tag}.{name}"
    return f"{child.tag} {way}"
