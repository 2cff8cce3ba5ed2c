"""What holds for all commands."""

import pytest

from linchain.cli.app import app, main

NAMES = [command.callback.__name__ for command in app.registered_commands]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"train"}))
def test_a_command_that_is_one_process_says_so_once(monkeypatch, capsys, name):
    monkeypatch.setattr("sys.argv", ["linchain", name])
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, told in (("0", f"error: linchain {name} is one process"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as exit:
            main()
        assert exit.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(told)
        assert bool(error) is bool(told)
