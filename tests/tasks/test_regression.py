import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.tasks import build_task
from jtl.tasks.regression import squared_error


@pytest.mark.parametrize('y', [[1.0, 5.0], [[1.0], [5.0]]])
def test_squared_error_of_one_value_takes_both_target_shapes(y):
    got = squared_error(jnp.array([[3.0], [4.0]]), {'label': jnp.array(y)})
    assert got.tolist() == [4.0, 1.0]


def test_squared_error_of_several_values_is_their_mean_and_its_gradient_points_away_from_the_target():
    outputs, y = jnp.array([[3.0, 0.0]]), jnp.array([[1.0, 1.0]])
    assert squared_error(outputs, {'label': y}).tolist() == [2.5]
    assert jax.grad(lambda x: squared_error(x, {'label': y})[0])(outputs).tolist() == [[2.0, -1.0]]


def test_baseline_is_the_training_mean():
    got = build_task({'name': 'regression'}, (), ()).baseline(np.array([1.0, 3.0]), np.array([2.0, 4.0, 0.0]))
    assert got == pytest.approx({'loss': 8 / 3, 'rmse': (8 / 3) ** 0.5, 'mae': 4 / 3, 'r2': 0.0})
    many = build_task({'name': 'regression'}, (), (2,)).baseline(np.array([[0.0, 10.0], [2.0, 10.0]]), np.array([[1.0, 7.0]]))
    assert (many['mae/value_0'], many['mae/value_1']) == (0.0, 3.0)


def test_describe():
    assert build_task({'name': 'regression'}, (), ()).describe(np.array([1.5], np.float32)) == {'value': 1.5}
    assert build_task({'name': 'regression'}, ('x', 'y'), (2,)).describe(np.array([1.5, 2.0])) == {'value': {'x': 1.5, 'y': 2.0}}
