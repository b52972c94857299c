"""Changes to tables, settings and archives of arrays."""

import csv
import io
import re
import zipfile
from random import Random

from hostile.mutate_bytes import mutate_bytes

_CELLS = (
    "", " ", "x", "0", "-1", "nan", "1e999", "good", "test", "train", "../../x.png", "/dev/zero",
    "/dev/stdin", "/proc/self/mem", "a\0b", "=1+1", "x" * 300, "x" * 200_000, "\n", '"', "\x1b[31m",
    "\ud800", "é" * 100, ".", "..", "/", "C:\\x.png", "con",
)  # fmt: skip
_VALUES = (
    "0", "-1", "1", "2", "1e300", "nan", "inf", "-inf", "1" * 5000, "true", '"x"', '""', "[]",
    "[1, 2, 3]", "{}", "2026-01-01", "[[[[1]]]]", "[" * 5000, "0x10", "1.5", "1000000000", "[0, 0]",
    '"/dev/zero"', '"nan"', "''", '"""', "65536",
)  # fmt: skip


def mutate_csv(random: Random, content: bytes) -> tuple[bytes, str]:
    """Change a table: its cells, lines, columns, or bytes."""
    if random.random() < 0.3:
        return mutate_bytes(random, content)
    rows = list(csv.reader(io.StringIO(content.decode())))
    line = random.randrange(len(rows))
    way = random.choice(("cell", "cell", "cell", "drop", "repeat", "swap", "short", "long", "text"))
    at = random.randrange(len(rows[line]))
    if way == "cell":
        rows[line][at] = random.choice(_CELLS)
    elif way == "drop":
        del rows[line]
    elif way == "repeat":
        rows[line:line] = [rows[line]] * random.choice((1, 2000))
    elif way == "swap":
        to = random.randrange(len(rows[line]))
        rows[line][at], rows[line][to] = rows[line][to], rows[line][at]
    elif way == "short":
        rows[line] = rows[line][:at]
    elif way == "long":
        rows[line] += ["x"] * random.choice((1, 1000))
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=random.choice(",,,,;\t")).writerows(rows)
    text = stream.getvalue().encode("utf-8", "surrogatepass")
    if way == "text":
        return random.choice(
            (b"", text.decode().encode("utf-16"), b"\xef\xbb\xbf" + text, b'"')
        ), way
    return text, f"{way} of line {line}"


def mutate_toml(random: Random, content: bytes) -> tuple[bytes, str]:
    """Change settings: their values, names and lines, or bytes."""
    if random.random() < 0.25:
        return mutate_bytes(random, content)
    lines = content.decode().splitlines()
    line = random.randrange(len(lines))
    name, _, value = lines[line].partition(" = ")
    way = random.choice(("value", "value", "value", "drop", "repeat", "name", "deep", "table"))
    if way == "value":
        value = random.choice(_VALUES)
        lines[line] = f"{name} = {value}"
    elif way == "drop":
        del lines[line]
    elif way == "repeat":
        lines.insert(line, lines[line])
    elif way == "name":
        lines[line] = f"{random.choice(('', 'x', name.upper(), f'{name}.x', f'{name}s'))} = {value}"
    elif way == "deep":
        lines[line] = f"{name} = {'[' * 2000}{']' * 2000}"
    else:
        lines.insert(line, random.choice(("[x]", "[[x]]", f"[{name}]", "[", "a.b.c = 1")))
    return "\n".join(lines).encode(), f"{way} {name} {value:.20}"


def mutate_zip(random: Random, content: bytes) -> tuple[bytes, str]:
    """Change an archive of arrays: an array's bytes, its members, or bytes of the archive."""
    if random.random() < 0.5:
        return mutate_bytes(random, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(members))
    way = random.choice(("bytes", "bytes", "drop", "rename", "bomb", "header", "header"))
    if way == "bytes":
        members[name] = mutate_bytes(random, members[name])[0]
    elif way == "header":
        odd = ((b"<f8", b"|O8"), (b"(1000,)", b"(10**9,)"), (b"<f8", b"<i8"), (b"<f8", b"<c8"))
        pair = random.choice((*odd, (b"'shape': (", b"'shape': (900000000000,")))
        members[name] = members[name].replace(*pair, 1)
    elif way == "bomb":
        members[name] = members[name][:128] + bytes(300_000_000)
    else:
        member = members.pop(name)
        if way == "rename":
            members[random.choice(("x.npy", "../x.npy", "x"))] = member
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member_name, member in members.items():
            archive.writestr(member_name, member)
    return stream.getvalue(), f"{way} {name}"


_MARKS = (
    "<image>", "</image>", "<image name='x' width='1' height='1'/>", "<![CDATA[", "<!--", "-->",
    "<!DOCTYPE x [<!ENTITY a 'b'>]>", "&a;", "&#0;", "&#65;", "<mask/>", "<skeleton/>", "\x00",
    "<track/>", "<annotations>", "<a>" * 2000, "<box/>" * 2000, "\ud800",
)  # fmt: skip
_NUMBERS = (
    "", "0", "-1", "1e9", "1e308", "-1e308", "nan", "inf", "65536", "70000", "9" * 30, "9" * 5000,
    "0.5", "1,1", "1;1", "1,1;" * 5000 + "1,1", "7,7;0,0;" * 5000 + "7,7", "0," * 5000 + "64", "x",
    "8", "2,2", "dent/2.png", "good", "1 ", "1_0", "\u0661",
)  # fmt: skip


def mutate_xml(random: Random, content: bytes) -> tuple[bytes, str]:
    """Change XML: its values, names, elements, or bytes."""
    if random.random() < 0.25:
        return mutate_bytes(random, content)
    text = content.decode()
    way = random.choice(("value", "value", "value", "name", "line", "mark", "deep", "code"))
    if way in ("value", "name"):
        pattern = r'(?<==")[^"]*(?=")' if way == "value" else r"(?<=[ <])\w+"
        start, end = random.choice([found.span() for found in re.finditer(pattern, text)])
        new = random.choice(_NUMBERS if way == "value" else ("", "x", "points", "width", "a:b"))
        text = text[:start] + new + text[end:]
        way = f"{way} {start} {new:.20}"
    elif way == "line":
        lines = text.splitlines()
        line = random.randrange(len(lines))
        lines[line : line + 1] = [lines[line]] * random.choice((0, 2, 500))
        text = "\n".join(lines)
    elif way == "mark":
        at, mark = random.randrange(len(text)), random.choice(_MARKS)
        text = text[:at] + mark + text[at:]
    elif way == "deep":
        text = text.replace("<image ", "<a>" * 100_000 + "<image ", 1)
    else:
        code = random.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32"))
        return text.replace("utf-8", random.choice((code, "cp037", "utf-8"))).encode(code), way
    return text.encode("utf-8", "surrogatepass"), way
