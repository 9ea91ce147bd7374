import pytest
import torch
from torch import Tensor

from recon.noise import NoiseStreams
from recon.operators import CartesianSense, MeasurementOperator
from recon.solve import (
    ConjugateGradientSolver,
    RowSolver,
    conjugate_gradient,
    row_solver,
)
from tests.contracts import assert_operator_laws, complex_normal, norm

SHAPES = [(6, 8), (7, 9), (8, 5), (1, 7), (6, 1), (9, 9)]


def unit_maps(coils: int, shape: tuple[int, int], dtype: torch.dtype = torch.complex64) -> Tensor:
    maps = complex_normal((coils, *shape), 1, dtype)
    return maps / maps.abs().square().sum(dim=0, keepdim=True).sqrt()


def line_mask(shape: tuple[int, int], along: str) -> Tensor:
    """Every other line and the two central ones: not symmetric about the centre."""
    size = shape[1] if along == "columns" else shape[0]
    pattern = torch.arange(size) % 3 == 0
    pattern[size // 2 : size // 2 + 2] = True
    return (pattern[None, :] if along == "columns" else pattern[:, None]).expand(shape).clone()


def scattered_mask(shape: tuple[int, int]) -> Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.5
    mask[0, 0], mask[0, 1], mask[1, 0] = True, False, False
    return mask


def dense_normal(operator: MeasurementOperator, shape: tuple[int, int]) -> Tensor:
    """A^H A as a (pixels, pixels) matrix, column by column from forward and adjoint."""
    pixels = shape[0] * shape[1]
    basis = torch.eye(pixels, dtype=torch.complex128).reshape(pixels, *shape)
    double = CartesianSense(operator.coil_maps.to(torch.complex128), operator.mask)
    return double.adjoint(double.forward(basis)).reshape(pixels, pixels).mT


def exact_row_solver(operator: CartesianSense) -> RowSolver:
    solver = row_solver(operator.mask, operator.coil_maps, operator.overlap)
    assert solver is not None
    return solver


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("along", ["columns", "rows"])
def test_row_solver_agrees_with_the_dense_matrix(shape: tuple[int, int], along: str) -> None:
    operator = CartesianSense(unit_maps(3, shape), line_mask(shape, along))
    solver = exact_row_solver(operator)
    rhs = complex_normal((2, *shape), 2)
    for precision, shift in ((1.0, 0.5), (400.0, 4.0), (1.0, 100.0)):
        matrix = precision * dense_normal(operator, shape)
        matrix = matrix + shift * torch.eye(len(matrix))
        expected = torch.linalg.solve(matrix, rhs.flatten(1).mT.to(torch.complex128)).mT
        found = solver.precondition(rhs, None, precision, shift)
        assert found.shape == rhs.shape
        assert norm(found.flatten(1) - expected) < 1e-4 * norm(expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("along", ["columns", "rows"])
def test_row_solver_agrees_with_conjugate_gradients(shape: tuple[int, int], along: str) -> None:
    operator = CartesianSense(unit_maps(2, shape), line_mask(shape, along))
    rows, gradients = exact_row_solver(operator), ConjugateGradientSolver(operator, 1e-6, 200)
    rhs = complex_normal((3, *shape), 3)
    for precision, shift in ((1.0, 0.5), (100.0, 4.0), (1.0, 100.0)):
        exact = rows.precondition(rhs, None, precision, shift)
        iterative = gradients.precondition(rhs, None, precision, shift)
        assert norm(exact - iterative) < 1e-4 * norm(exact)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("along", ["columns", "rows"])
def test_row_solver_normal_is_the_operators(shape: tuple[int, int], along: str) -> None:
    operator = CartesianSense(unit_maps(2, shape), line_mask(shape, along))
    image = complex_normal((2, *shape), 4)
    rows = exact_row_solver(operator)
    torch.testing.assert_close(rows.normal(image), operator.normal(image), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        ConjugateGradientSolver(operator).normal(image), operator.normal(image)
    )


def test_lines_on_which_single_precision_fails_are_solved_in_double(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator = CartesianSense(unit_maps(3, (7, 9)), line_mask((7, 9), "columns"))
    decompose = torch.linalg.eigh

    def failing(blocks: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = decompose(blocks)
        if blocks.dtype == torch.complex64:
            values[2, -2:] = torch.nan
            vectors[2, :, 3] = torch.nan
        return values, vectors

    def raising(blocks: Tensor) -> tuple[Tensor, Tensor]:
        if blocks.dtype == torch.complex64:
            raise torch.linalg.LinAlgError("did not converge")
        values, vectors = decompose(blocks)
        return values, vectors

    image = complex_normal((2, 7, 9), 2)
    for fault in (failing, raising):
        monkeypatch.setattr(torch.linalg, "eigh", fault)
        error = exact_row_solver(operator).normal(image) - operator.normal(image)
        assert norm(error) < 1e-5 * norm(image)


@pytest.mark.parametrize("kind", ["columns", "rows", "gradients along columns", "gradients in 2-D"])
def test_draws_have_the_covariance_of_the_inverse(kind: str) -> None:
    """Whitened by the exact factor of H, 20000 draws are white within 5 standard errors."""
    shape, draws, precision, shift = (4, 5), 20_000, 9.0, 0.7
    mask = scattered_mask(shape) if "2-D" in kind else line_mask(shape, kind.split()[-1])
    operator = CartesianSense(unit_maps(2, shape), mask)
    solver = (
        ConjugateGradientSolver(operator, 1e-5, 200)
        if "gradients" in kind
        else exact_row_solver(operator)
    )
    rhs = complex_normal(shape, 6).expand(draws, *shape)
    white = solver.white(NoiseStreams.pooled(7, draws), rhs)
    with_noise = solver.precondition(rhs, white, precision, shift)
    mean = solver.precondition(rhs[:1], None, precision, shift)
    matrix = precision * dense_normal(operator, shape)
    matrix = matrix + shift * torch.eye(len(matrix))
    # H = L L^H, so L^H c is white: E[u u^H] = 2 I for unit variance per real component.
    factor = torch.linalg.cholesky(matrix)
    whitened = (with_noise - mean).flatten(1).to(torch.complex128) @ factor.conj()
    pixels = whitened.shape[1]
    chi2 = float(whitened.abs().square().mean()) / 2
    assert abs(chi2 - 1) < 5 / (draws * pixels) ** 0.5
    assert whitened.mean(dim=0).abs().max() < 5 * (2 / draws) ** 0.5
    covariance = whitened.mT @ whitened.conj() / draws
    standard_error = 2 / draws**0.5
    assert (covariance - 2 * torch.eye(pixels)).abs().max() < 5 * standard_error
    relation = whitened.mT @ whitened / draws
    assert relation.abs().max() < 5 * 2**0.5 * standard_error


def test_both_solvers_draw_with_keyed_streams() -> None:
    shape = (5, 6)
    operator = CartesianSense(unit_maps(2, shape), line_mask(shape, "columns"))
    for solver in (exact_row_solver(operator), ConjugateGradientSolver(operator)):
        both = solver.white(NoiseStreams.keyed(1, "run", (0, 1)), torch.empty(2, *shape))
        alone = solver.white(NoiseStreams.keyed(1, "run", (1,)), torch.empty(1, *shape))
        rhs = complex_normal((2, *shape), 8)
        together = solver.precondition(rhs, both, 5.0, 1.0)
        torch.testing.assert_close(
            together[1:], solver.precondition(rhs[1:], alone, 5.0, 1.0), atol=1e-5, rtol=1e-4
        )


def positive_definite(pixels: int) -> Tensor:
    square = complex_normal((pixels, pixels), 9)
    return square @ square.mH / pixels + 0.05 * torch.eye(pixels)


def test_every_image_is_solved_to_its_own_tolerance() -> None:
    matrix = positive_definite(20)

    def apply(images: Tensor) -> Tensor:
        return (images.flatten(1) @ matrix.mT).reshape(images.shape)

    rhs = complex_normal((3, 4, 5), 10) * torch.tensor([1, 1e-4, 1e-8])[:, None, None]
    exact = torch.linalg.solve(matrix, rhs.flatten(1).mT).mT.reshape(rhs.shape)
    for initial in (None, 0.3 * rhs):
        solution = conjugate_gradient(
            apply, rhs, initial=initial, tolerance=1e-5, max_iterations=200
        )
        assert solution.converged.tolist() == [True] * 3
        assert solution.relative_residual.shape == (3,)
        assert solution.relative_residual.max() <= 1e-5
        for k in range(3):
            residual = norm(rhs[k] - apply(solution.value)[k]) / norm(rhs[k])
            assert residual < 3e-5
            # |error| <= |residual| / least eigenvalue.
            assert norm(solution.value[k] - exact[k]) < 3e-5 / 0.05 * norm(rhs[k])
            alone = conjugate_gradient(
                apply,
                rhs[k : k + 1],
                initial=None if initial is None else initial[k : k + 1],
                tolerance=1e-5,
                max_iterations=200,
            )
            assert alone.iterations <= solution.iterations + 1  # rounding depends on the batch
            difference = norm(alone.value[0] - solution.value[k])
            assert difference < 1e-4 * norm(solution.value[k])


def test_solver_keeps_quiet_images_exact() -> None:
    shape = (6, 7)
    operator = CartesianSense(unit_maps(2, shape), scattered_mask(shape))
    solver = ConjugateGradientSolver(operator, 1e-5, 200)
    rhs = complex_normal((3, *shape), 11) * torch.tensor([1, 1e-4, 1e-8])[:, None, None]
    found = solver.precondition(rhs, None, 10.0, 1.0)
    for k in range(3):
        back = 10 * operator.normal(found[k]) + found[k]
        assert norm(back - rhs[k]) < 3e-5 * norm(rhs[k])


def test_zero_right_hand_side_is_solved_by_zero() -> None:
    rhs = torch.zeros(2, 3, 4, dtype=torch.complex64)
    solution = conjugate_gradient(lambda x: 2 * x, rhs)
    assert not solution.value.any()
    assert solution.iterations == 0
    assert solution.converged.all()


def test_non_convergence_is_reported() -> None:
    matrix = positive_definite(20)
    rhs = complex_normal((2, 4, 5), 12)
    # An eigenvector is solved in one iteration; a mixture of twenty is not in two.
    rhs[1] = torch.linalg.eigh(matrix).eigenvectors[:, 3].reshape(4, 5)
    solution = conjugate_gradient(
        lambda x: (x.flatten(1) @ matrix.mT).reshape(x.shape), rhs, tolerance=1e-5, max_iterations=2
    )
    assert solution.iterations == 2
    assert solution.converged.tolist() == [False, True]
    residual = norm(rhs[0] - (solution.value[0].flatten() @ matrix.mT).reshape(4, 5)) / norm(rhs[0])
    assert float(solution.relative_residual[0]) == pytest.approx(residual, rel=1e-3)
    assert residual > 1e-2


class Half(MeasurementOperator):
    """Half of the image: an operator that is no Fourier mask."""

    def forward(self, image: Tensor) -> Tensor:
        return image / 2

    def adjoint(self, measurement: Tensor) -> Tensor:
        return measurement / 2

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        return tuple(image_shape)

    @property
    def measured_components(self) -> int:
        return 1


def test_an_operator_takes_the_exact_solver_where_it_can() -> None:
    shape = (6, 7)
    maps = unit_maps(2, shape)
    along_columns = CartesianSense(maps, line_mask(shape, "columns")).solver()
    assert isinstance(along_columns, RowSolver)
    assert not along_columns.along_rows
    assert along_columns.values.shape == (6, 7)
    along_rows = CartesianSense(maps, line_mask(shape, "rows")).solver()
    assert isinstance(along_rows, RowSolver)
    assert along_rows.along_rows
    assert along_rows.values.shape == (7, 6)
    full = torch.ones(shape, dtype=torch.bool)
    assert isinstance(CartesianSense(maps, full).solver(), RowSolver)
    scattered = CartesianSense(maps, scattered_mask(shape))
    assert row_solver(scattered.mask, scattered.coil_maps, None) is None
    assert isinstance(scattered.solver(), ConjugateGradientSolver)
    assert isinstance(Half().solver(), ConjugateGradientSolver)


def test_gradients_serve_any_operator() -> None:
    assert_operator_laws(Half(), (2, 3, 4))
    solver, draws = Half().solver(), 20_000
    white = solver.white(NoiseStreams.pooled(3, draws), torch.empty(draws, 2, 2))
    rhs = complex_normal((draws, 2, 2), 13)
    noise = solver.precondition(rhs, white, 8.0, 1.0) - rhs / 3
    # H = 8 / 4 + 1 = 3 for all 8 components of every draw.
    assert abs(3 * float(noise.abs().square().mean()) / 2 - 1) < 5 * (2 / (8 * draws)) ** 0.5


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(kind, shape) for kind in ("columns", "rows") for shape in SHAPES]
    + [("scattered", (6, 8)), ("scattered", (7, 9))],
)
def test_a_step_in_one_pass_is_the_step_in_two(kind: str, shape: tuple[int, int]) -> None:
    mask = scattered_mask(shape) if kind == "scattered" else line_mask(shape, kind)
    operator = CartesianSense(unit_maps(3, shape), mask)
    solver = operator.solver()
    image, drift = complex_normal((2, *shape), 7), complex_normal((2, *shape), 8)
    white = solver.white(NoiseStreams.keyed(3, "step", (0, 1)), torch.empty(2, *shape))
    found = solver.relaxed(image, drift, 30.0, white, 25.0, 4.0)
    residual = drift - 30.0 * operator.normal(image)
    expected = image + solver.precondition(residual, white, 25.0, 4.0)
    assert norm(found - expected) < 1e-4 * norm(expected)
