import json
from pathlib import Path

import pytest

from padim.cli import main
from padim.serving.tokens import TOKENS, Role, find_token, read_tokens


def test_a_token_is_shown_once_and_kept_as_a_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(tmp_path)]
    assert main(["tokens", "add", "line 2", "--role", "score", *words]) == 0
    text = capsys.readouterr().out.strip()
    path = tmp_path / TOKENS
    assert text not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    found = find_token(read_tokens(path), text)
    assert found is not None
    assert (found.name, found.role) == ("line 2", "score")
    assert found.allows(Role.SCORE)
    assert not found.allows(Role.OPERATE)
    assert find_token(read_tokens(path), text + "x") is None
    assert main(["tokens", "list", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "line 2", "role": "score"}]
    assert main(["tokens", "remove", "line 2", *words]) == 0
    assert find_token(read_tokens(path), text) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "a", "--role", "scor"], "There is no role 'scor'. Did you mean 'score'?"),
        (["add", "b", "--role", "score"], "'b' has a token already."),
        (["remove", "c"], "There is no token 'c'."),
    ],
)
def test_wrong_usage_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["tokens", "add", "b", "--role", "score", "--data", str(tmp_path)]) == 0
    assert main(["tokens", *words, "--data", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_file_of_tokens_lets_nobody_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / TOKENS).write_text('{"tokens": [{"name": "x"}]}')
    assert main(["tokens", "list", "--data", str(tmp_path)]) == 1
    assert "cannot be understood" in capsys.readouterr().err
