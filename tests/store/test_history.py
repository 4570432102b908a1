"""The history under several writers."""

from concurrent.futures import ThreadPoolExecutor

from sintra.store import history


def result(number):
    return {
        "study": f"s{number}",
        "model": "m",
        "hardware": "h",
        "goal": {"name": "g"},
        "status": "pass",
        "winner": None,
    }


def test_many_may_open_a_new_one_at_once(tmp_path):
    for attempt in range(10):
        path = tmp_path / f"{attempt}.db"
        with ThreadPoolExecutor(8) as pool:
            added = list(
                pool.map(
                    lambda n, path=path: history.append_result(path, result(n), f"d{n}"), range(8)
                )
            )
        assert added == [True] * 8
        assert {r["study"] for r in history.read_results(path)} == {f"s{n}" for n in range(8)}


def test_the_same_result_is_written_once(tmp_path):
    assert history.append_result(tmp_path / "h.db", result(1), "d")
    assert not history.append_result(tmp_path / "h.db", result(1), "d")
    assert history.append_result(tmp_path / "h.db", result(1), "e")
    assert [r["digest"] for r in history.read_results(tmp_path / "h.db")] == ["d", "e"]


def test_rows_of_an_earlier_version_have_the_words_of_now(tmp_path):
    path, words = tmp_path / "h.db", ("met", "unmet", "infeasible", "undecided", "pass")
    for number, word in enumerate(words):
        assert history.append_result(path, {**result(number), "status": word}, word)
    assert [r["status"] for r in history.read_results(path)] == [
        "pass",
        "fail",
        "impossible",
        "inconclusive",
        "pass",
    ]
    assert not history.append_result(path, {**result(0), "status": "met"}, "met"), "still sound"
