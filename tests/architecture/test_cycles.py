"""No import cycles, counting imports inside functions."""

from collections.abc import Iterator

from support.source_tree import PRODUCT, SIMULATOR, imports, module_names, modules

Graph = dict[str, set[str]]


def _graph() -> Graph:
    return {
        module.name: {
            target
            for target, _ in imports(module.tree)
            if target in module_names() and target != module.name
        }
        for module in modules(*PRODUCT, SIMULATOR)
    }


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph.get(start, ()))
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph.get(name, ())
    return seen


def _cycles(graph: Graph) -> Iterator[list[str]]:
    """Every group of modules that reach each other, once."""
    reach = {name: _reachable(graph, name) for name in graph}
    done: set[str] = set()
    for name in sorted(graph):
        if name in reach[name] and name not in done:
            group = sorted(other for other in reach[name] if name in reach.get(other, set()))
            done.update(group)
            yield group


def test_no_modules_import_each_other() -> None:
    assert list(_cycles(_graph())) == []


def test_a_cycle_through_a_function_is_found() -> None:
    assert list(_cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == [["a", "b", "c"]]
