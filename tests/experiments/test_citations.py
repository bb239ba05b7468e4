"""BibTeX of experiments."""

import re

from docs.pages import sources
from experiments import catalog, citations


def test_every_paper_and_post_that_an_experiment_names_has_an_entry():
    for name in catalog.names():
        missing = set(citations.keys(catalog.get(name))) - set(citations.entries())
        assert not missing, name


def test_entries_are_whole_and_say_where_to_read():
    text = citations.FILE.read_text()
    assert text.count("@") == len(citations.entries())
    for key, entry in citations.entries().items():
        kind, number = key.split(":")
        address = {"arxiv": "https://arxiv.org/abs/", "kexue": "https://kexue.fm/archives/"}[kind]
        assert f"url = {{{address}{number}}}" in entry
        assert entry.count("{") == entry.count("}")
        assert all(
            re.search(rf"^  {field} = \{{.+\}},?$", entry, re.M)
            for field in ("title", "author", "year")
        )
        if kind == "arxiv":
            assert f"year = {{20{number[:2]}}}" in entry and f"eprint = {{{number}}}" in entry


def test_the_citation_file_names_every_reference():
    text = (sources.ROOT / "CITATION.cff").read_text()
    named = re.findall(r'^    url: "(.+)"$', text, re.M)
    known = re.findall(r"^  url = \{(.+)\},?$", citations.FILE.read_text(), re.M)
    assert sorted(named) == sorted(known)
    assert text.count("    authors:") == text.count("    title: ") == len(known)
    assert "\\" not in text


def test_cite_prints_each_once_and_the_project(cli):
    code, out, _ = cli("cite", "ssm/delay", "ssm/copying")
    assert code == 0
    assert out.count("@misc{arxiv:2405.06147,") == 1 and out.count("@software{kexue-jax,") == 1
    version = re.search(r"^version: (.+)$", (sources.ROOT / "CITATION.cff").read_text(), re.M)
    assert version and f"version = {{{version[1]}}}" in out
    code, out, _ = cli("cite")
    assert code == 0 and out.startswith("@software{kexue-jax,")


def test_a_file_of_ones_own_is_cited_by_what_it_names(cli, tmp_path):
    mine = tmp_path / "mine.py"
    cli("new", str(mine))
    mine.write_text(mine.read_text().replace('"""', '"""Of arXiv 2008.07669 and 0000.00000. ', 1))
    code, out, _ = cli("cite", str(mine))
    assert code == 0 and "@misc{arxiv:2008.07669," in out
    assert "% arxiv:0000.00000: not among the project's references" in out


def test_unknown_names_are_refused(cli):
    code, _, err = cli("cite", "ssm/dela")
    assert code == 2 and "ssm/delay" in err
