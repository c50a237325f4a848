import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import metajax as mj
from metajax import jaxprs, mapping
from metajax.mapping import map_tasks, mean_over_tasks, tiled

TASKS = 8


def assert_trees_close(actual, expected, rtol=2e-5, atol=1e-7):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


LAYOUTS = {
    "chunks": dict(chunk=2),
    "tiles": dict(tile=2),
    "chunk-that-does-not-divide": dict(chunk=3),
    "devices": dict(devices=2),
    "devices-chunks-tiles": dict(devices=2, chunk=2, tile=1),
}


def mapping_of(devices=1, **sizes):
    return mj.Mapping(mesh=mj.task_mesh(devices), **sizes)


@pytest.fixture(scope="module")
def one_update():
    """A meta-update of a small RL problem, by mapping; gradients are read off plain descent."""
    problem = problems.gridworld()

    def of(mapping):
        learner = mj.maml(problem, mj.sgd(1.0), optax.sgd(1.0), TASKS, mapping=mapping)
        state = learner.init(jax.random.key(0))
        after, metrics = jax.jit(learner.update)(state)
        return optax.tree.sub(state.params, after.params), metrics

    return of, of(mj.Mapping())


# One of these is the others at once.
TOGETHER = ("chunk-that-does-not-divide", "devices-chunks-tiles")


@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in TOGETHER)) for name in LAYOUTS],
)
def test_meta_gradient_does_not_depend_on_the_layout(one_update, layout):
    of, (gradient, metrics) = one_update
    actual, actual_metrics = of(mapping_of(**LAYOUTS[layout]))
    assert float(optax.tree.norm(gradient)) > 1e-4
    assert_trees_close(actual, gradient)
    assert int(actual_metrics["env_steps"]) == int(metrics["env_steps"]) == TASKS * 2 * 4 * 6
    np.testing.assert_allclose(actual_metrics["score_after"], metrics["score_after"], rtol=1e-5)


def test_an_accelerators_memory_bounds_a_chunk_with_all_that_is_alive_inside(monkeypatch):
    """A loop's body holds two arrays of 1 MiB beside the one that it carries."""

    class Device:
        def memory_stats(self):
            return {"bytes_limit": 24 << 20}

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])

    def one(shared, task):
        def body(_, carried):
            turned = jnp.flip(carried)
            return carried * jnp.sin(turned)

        return jnp.sum(jax.lax.fori_loop(0, 3, body, jnp.full((2**18,), task) + shared))

    program = jax.jit(map_tasks(one, mj.Mapping())).trace(2.0, jnp.arange(16.0)).jaxpr.jaxpr
    (chunk,) = {*jaxprs.scoped_sizes(mapping.CHUNK, program)}
    assert 2 <= chunk <= 4  # of 12 MiB
    monkeypatch.setattr(Device, "memory_stats", lambda self: None)
    program = jax.jit(map_tasks(one, mj.Mapping())).trace(2.0, jnp.arange(16.0)).jaxpr.jaxpr
    assert {*jaxprs.scoped_sizes(mapping.CHUNK, program)} == {16}


@pytest.mark.parametrize("mapped", [mean_over_tasks, map_tasks])
def test_tasks_that_keep_much_come_in_smaller_chunks(mapped):
    """Each holds three arrays of 1/4 MiB at once, of five in all, and 5 MiB is what a chunk may."""
    traces = []

    def one(shared, task):
        traces.append(task)
        first = jnp.full((2**16,), task)
        second = jnp.sin(first) + shared
        return jnp.sum(second * jnp.flip(second))

    tasks = jnp.arange(12.0)
    over = jax.jit(mapped(one, mj.Mapping()))
    program = over.trace(2.0, tasks)
    assert len(traces) == 1
    assert {*jaxprs.scoped_sizes(mapping.CHUNK, program.jaxpr.jaxpr)} == {6}
    plain = jax.jit(mapped(one, mj.Mapping(chunk=12)))
    np.testing.assert_allclose(over(2.0, tasks), plain(2.0, tasks), rtol=1e-6)


def test_floats_are_averaged_and_counts_added_over_all_tasks():
    def one(shared, task):
        return {"mean": shared * task, "count": jnp.int32(1)}

    for layout in LAYOUTS.values():
        mean = jax.jit(mean_over_tasks(one, mapping_of(**layout)))
        out = mean(jnp.float32(2.0), jnp.arange(8.0))
        assert float(out["mean"]) == 7.0
        assert int(out["count"]) == 8


def test_devices_meet_once_in_an_update():
    learner = mj.maml(
        problems.quadratic(), mj.sgd(0.1), optax.sgd(1.0), TASKS, mapping=mapping_of(2)
    )
    state = jax.eval_shape(learner.init, jax.random.key(0))
    program = jax.jit(learner.update).lower(state).compile().as_text()
    meetings = re.findall(r" (all-[a-z]+|reduce-scatter|collective-[a-z]+)(?:-start)?\(", program)
    assert meetings == ["all-reduce"]


def test_counts_are_exact_however_large_and_floats_keep_their_type():
    counts = jnp.array([[2**30 + 1, -5], [2**30 - 3, 2**24 + 1], [-7, -(2**31)], [11, 2**31 - 1]])

    def one(_, count):
        return count, count.astype(jnp.uint32), count[0].astype(jnp.bfloat16)

    signed, unsigned, half = jax.jit(mean_over_tasks(one, mapping_of(2)))(None, counts)
    np.testing.assert_array_equal(signed, np.sum(counts, axis=0, dtype=np.int32))
    np.testing.assert_array_equal(unsigned, np.sum(counts, axis=0, dtype=np.int32).view(np.uint32))
    assert half.dtype == jnp.bfloat16


def test_mapped_tasks_keep_their_order():
    for layout in LAYOUTS.values():
        mapped = jax.jit(map_tasks(lambda shared, task: shared + task, mapping_of(**layout)))
        np.testing.assert_array_equal(
            mapped(jnp.float32(1.0), jnp.arange(8.0)), jnp.arange(8.0) + 1
        )


@pytest.mark.parametrize("tasks", [7, 11, 12])
def test_a_number_of_tasks_that_no_chunk_divides_is_not_cut_into_tiny_ones(tasks):
    mapping = mj.Mapping(chunk=5)
    values = jnp.arange(float(tasks))
    mean = jax.jit(mean_over_tasks(lambda shared, task: shared * task, mapping))
    np.testing.assert_allclose(mean(jnp.float32(2.0), values), tasks - 1.0)
    mapped = map_tasks(lambda shared, task: shared + task, mapping)
    np.testing.assert_array_equal(mapped(jnp.float32(1.0), values), values + 1)
    program = jax.make_jaxpr(mapped)(jnp.float32(1.0), values)
    (loop,) = [e for e in program.eqns if e.primitive.name == "scan"]
    assert loop.params["length"] <= 3


def test_tiled_function_is_itself_under_vmap_whatever_is_batched():
    def function(a, b):
        return {"sum": a["x"] + b, "product": a["x"] * b}

    x, b = jnp.arange(12.0).reshape(6, 2), jnp.arange(12.0).reshape(6, 2) ** 2
    for axes in ((0, 0), (None, 0), (0, None)):
        args = ({"x": x if axes[0] == 0 else x[0]}, b if axes[1] == 0 else b[0])
        for tile in (None, 1, 2, 4, 6, 100):
            out = jax.vmap(tiled(function, tile), in_axes=axes)(*args)
            assert_trees_close(out, jax.vmap(function, in_axes=axes)(*args), rtol=0)


@pytest.mark.parametrize("layout", [dict(tile=1), dict(chunk=1), dict(tile=2)])
def test_a_result_may_be_a_plain_number(layout):
    def one(shared, value):
        twice = tiled(lambda value: {"twice": 2 * value, "one": 1.0}, layout.get("tile"))(value)
        return {**twice, "two": 2.0}

    program = map_tasks(one, mj.Mapping(chunk=layout.get("chunk")))
    out = jax.jit(program)(None, jnp.arange(4.0))
    np.testing.assert_array_equal(out["twice"], [0.0, 2.0, 4.0, 6.0])
    np.testing.assert_array_equal(out["one"], np.ones(4))
    np.testing.assert_array_equal(out["two"], np.full(4, 2.0))


@pytest.mark.parametrize("layout", [dict(), dict(chunk=2), dict(chunk=3), dict(chunk=5, tile=1)])
@pytest.mark.parametrize("mapped", [mean_over_tasks, map_tasks])
def test_the_code_of_a_task_runs_once_in_every_layout(mapped, layout):
    runs = []

    def inside(value):
        runs.append("inside")
        return 2 * value

    def one(shared, task):
        runs.append("task")
        return tiled(inside, layout.get("tile"))(task) + shared

    tasks = jnp.arange(5.0)
    program = mapped(one, mj.Mapping(chunk=layout.get("chunk")))
    each = 2 * tasks + 1
    expected = jnp.mean(each) if mapped is mean_over_tasks else each
    np.testing.assert_allclose(jax.jit(program)(1.0, tasks), expected)
    assert runs == ["task", "inside"]


@pytest.mark.parametrize("chunk", [None, 2, 4])
def test_a_tiled_function_may_close_over_values(chunk):
    outside = jnp.float32(3.0)

    def one(shared, task):
        root = jnp.sqrt(shared)

        def body(carry, weight):
            value = tiled(lambda t: {"sum": t * root + task + weight + outside}, 2)(task)
            return carry + value["sum"], None

        return jax.lax.scan(body, jnp.float32(0.0), jnp.arange(2.0))[0]

    out = jax.jit(map_tasks(one, mj.Mapping(chunk=chunk)))(4.0, jnp.arange(4.0))
    np.testing.assert_allclose(out, 6 * jnp.arange(4.0) + 7)


@pytest.mark.parametrize("chunk", [None, 2])
def test_weak_types_of_tasks_are_kept(chunk):
    tasks = jnp.full(4, 2.0)  # weak, as the number is
    with jax.numpy_dtype_promotion("strict"):
        out = map_tasks(lambda s, t: s * t, mj.Mapping(chunk=chunk))(jnp.bfloat16(2), tasks)
    assert out.dtype == jnp.bfloat16


def test_what_no_result_of_a_tile_depends_on_is_not_kept_for_it():
    def one(shared, task):
        first = jnp.full((5,), task)
        both = {"read": shared * first, "unread": jnp.sin(first)}
        last = {"read": jnp.sum(first), "unread": jnp.cos(first)}
        return tiled(lambda last, both: both["read"] - last["read"], 2)(last, both)

    trace = jaxprs.traced(one, 3.0, 2.0)
    names = {equation.primitive.name for equation in trace.jaxpr.eqns}
    assert "mul" in names
    assert not names & {"sin", "cos"}
    out = jax.jit(map_tasks(one, mj.Mapping()))(3.0, jnp.arange(4.0))
    np.testing.assert_array_equal(out, np.repeat(-2 * np.arange(4.0)[:, None], 5, 1))


def test_tiles_run_one_after_another():
    program = jax.make_jaxpr(jax.vmap(tiled(jnp.sin, 2)))(jnp.ones((6, 3)))
    (loop,) = [e for e in program.eqns if e.primitive.name == "scan"]
    assert loop.params["length"] == 3


@pytest.mark.parametrize(
    ("mapping", "tasks", "message"),
    [
        (dict(chunk=0), 4, "chunk: expected at least 1, got 0"),
        (dict(tile=-1), 4, "tile: expected at least 1, got -1"),
        (dict(), 0, "tasks: expected at least 1, got 0"),
        (dict(devices=2), 3, "tasks: 3 is not a multiple of the 2 devices"),
    ],
)
def test_layout_that_cannot_be_is_refused(mapping, tasks, message):
    with pytest.raises(ValueError, match=message):
        mj.maml(
            problems.quadratic(), mj.sgd(0.1), optax.sgd(1.0), tasks, mapping=mapping_of(**mapping)
        )


def test_what_is_no_mapping_and_no_mesh_of_tasks_is_refused():
    auto = (jax.sharding.AxisType.Auto,)
    for layout, message in (
        (mj.task_mesh(2), "mapping: expected `Mapping"),
        (mj.Mapping(jax.make_mesh((2,), ("x",), axis_types=auto)), "mesh: expected one axis,"),
    ):
        with pytest.raises(ValueError, match=message):
            mj.maml(problems.quadratic(), mj.sgd(0.1), optax.sgd(1.0), 4, mapping=layout)


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match="devices: expected 1 to 2, got 3"):
        mj.task_mesh(3)


def test_a_size_divides_the_number_of_tasks_and_is_found_at_once_however_many_there_are():
    for tasks, bound in itertools.product(range(1, 40), range(-1, 45)):
        sizes = [d for d in range(1, tasks + 1) if tasks % d == 0 and d <= max(bound, 1)]
        assert mapping.largest_divisor(tasks, bound) == max(sizes)
    assert mapping.largest_divisor(2 * 10**9, 10**9 + 1) == 10**9


def test_one_device_is_the_one_that_was_asked_for():
    first, second = jax.devices()
    assert mj.task_mesh(1) is mj.task_mesh([first]) is None
    mapping = mj.Mapping(mj.task_mesh([second]))
    square = map_tasks(lambda shared, x: shared * x**2, mapping)
    found = jax.jit(square)(jnp.float32(2.0), jnp.arange(3.0))
    assert found.devices() == {second}
    np.testing.assert_array_equal(found, [0, 2, 8])


def test_a_tile_for_a_cache_that_holds_no_task_has_the_least_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(mapping, "_CPU_TILE_BYTES", 1)
    found = [mapping.tile_size(jnp.sin, 8, mapping.Mapping(), jnp.ones(3), least=n) for n in (1, 4)]
    assert found == [1, 4]
    given = mapping.Mapping(tile=2)  # what is asked for stays
    assert mapping.tile_size(jnp.sin, 8, given, jnp.ones(3), least=4) == 2


def test_a_chunk_has_no_more_than_the_most_tasks_and_no_less_than_half_of_what_is_asked():
    program = jax.make_jaxpr(map_tasks(lambda shared, task: shared + task, mj.Mapping()))
    found = jaxprs.scoped_sizes(mapping.CHUNK, program(1.0, jnp.zeros(4096)).jaxpr)
    assert {*found} == {2048}
    assert [mapping.chunk_size(n, mj.Mapping(chunk=4)) for n in (9, 10, 12)] == [3, 4, 4]


@pytest.mark.parametrize("chunk", [1, 1024])
def test_means_of_half_precision_do_not_depend_on_the_chunk(chunk):
    def one(shared, task):
        return (shared * task).astype(jnp.bfloat16)

    mean = mean_over_tasks(one, mj.Mapping(chunk=chunk))(jnp.float32(1.0), jnp.ones(1024))
    assert mean.dtype == jnp.bfloat16
    assert mean == 1.0  # a running sum in bfloat16 would stop at 256


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (mj.Mapping(chunk=0), "chunk: expected at least 1, got 0"),
        (mj.Mapping(tile=2.5), "tile: expected an integer, got 2.5"),
        (mj.task_mesh(2), "mapping: expected `Mapping.mesh=task_mesh"),
    ],
)
def test_whatever_takes_a_mapping_says_what_is_wrong_with_it(mapping, message):
    problem = problems.quadratic()
    adapt = mj.adaptation(problem, mj.sgd(0.1))
    for call in (
        lambda: mj.adaptation(problem, mj.sgd(0.1), mapping=mapping),
        lambda: mj.evaluate(adapt, None, problem, tasks=4, mapping=mapping),
        lambda: mj.promp(problem, mj.sgd(0.1), optax.sgd(0.1), 4, mapping=mapping),
        lambda: mj.emaml(problem, mj.sgd(0.1), optax.sgd(0.1), 4, mapping=mapping),
        lambda: mj.maml_trpo(problem, mj.sgd(0.1), mj.TrustRegion(), 4, mapping=mapping),
    ):
        with pytest.raises(ValueError, match=message):
            call()
