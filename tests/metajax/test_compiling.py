"""How programs are compiled."""

import jax
import jax.numpy as jnp

import metajax as mj


def test_options_are_the_callers_own(monkeypatch):
    monkeypatch.setattr(jax.config, "read", lambda name: False)
    options = mj.compiler_options()
    assert options
    options.clear()
    assert mj.compiler_options()


def test_a_cpu_takes_the_options_and_other_settings_come_first(monkeypatch):
    settings = {"jax_disable_most_optimizations": False}
    monkeypatch.setattr(jax.config, "read", settings.__getitem__)
    options = mj.compiler_options()
    program = jax.jit(lambda x: jnp.tanh(x @ x), compiler_options=options)
    assert options
    assert program(jnp.zeros((3, 3))).shape == (3, 3)
    settings["jax_disable_most_optimizations"] = True
    assert mj.compiler_options() is None
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    settings["jax_disable_most_optimizations"] = False
    assert mj.compiler_options() is None
