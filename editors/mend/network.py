"""MEND's network: from the two factors of each token's gradient to the two factors of an update.

Mitchell et al., *Fast Model Editing at Scale* (ICLR 2022), section 3. Legend: the gradient of a loss with respect to a
weight (d_out, d_in) is sum_r g_r x_r^T over token positions r, with x the module's input and g the gradient of the loss
with respect to its output. For the m-th weight of its shape:

    h = [(x - mean_x) / (std_x + 1e-7), (g - mean_g) / (std_g + 1e-7)]            appendix A
    h <- h + relu(scale_m * (U V h + b) + shift_m)      n_hidden + 1 times;       equation 3
    [x', g'] = h,   Delta = edit_lr_m * sum_r g'_r x'_r^T    (added to the weight)         equation 2

No (d_out, d_in) matrix is made before that last product, and in training not even that one.

Differs from the released code: statistics are merged over all rows of a step at once (Chan et al. 1979) rather than
row by row, and are used when editing too; edit rates and the index m are bound to the weights' names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.errors import UserError
from editors.mend.settings import MENDSettings

Shape = tuple[int, int]
"""(d_in, d_out) of a weight, however its module stores it."""


@dataclass(frozen=True, slots=True)
class Factors:
    """R rank-one terms g_r x_r^T of one weight: x (R, d_in), g (R, d_out), and `owner` (R,), the update each is for."""

    x: Tensor
    g: Tensor
    owner: Tensor

    def product(self) -> Tensor:
        """sum_r g_r x_r^T, (d_out, d_in)."""
        return self.g.T @ self.x


class Statistics(nn.Module):
    """Running mean and unbiased standard deviation of the rows seen in training mode, (dim,) each."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("squares", torch.zeros(dim))

    def forward(self, h: Tensor) -> Tensor:
        """Normalised rows, (R, dim) -> (R, dim); in training mode they count first."""
        if self.training:
            self._merge(h.detach())
        if self.count < 2:
            raise UserError(f"MEND cannot normalise from {int(self.count)} tokens' gradients: a larger accumulate_bs")
        return (h - self.mean) / ((self.squares / (self.count - 1)).sqrt() + 1e-7)

    def _merge(self, h: Tensor) -> None:
        """Chan's update of count, mean and sum of squared deviations by the R rows of h."""
        if not len(h):
            return
        mean, old, total = h.mean(0), self.count.clone(), self.count + len(h)
        shift = mean - self.mean
        self.squares += (h - mean).square().sum(0) + shift.square() * (old * len(h) / total)
        self.mean += shift * (len(h) / total)
        self.count.copy_(total)


class Layer(nn.Module):
    """h + relu(scale_m * (U V h + b) + shift_m); without the `h +` under init xavier, without m if not shared."""

    def __init__(self, dim: int, modes: int | None, hp: MENDSettings) -> None:
        super().__init__()
        rank = min(hp.rank, dim)
        self.residual = hp.init == "id"
        self.u = nn.Parameter(torch.zeros(dim, rank))
        self.v = nn.Parameter(torch.randn(rank, dim))
        if hp.init == "xavier":
            nn.init.xavier_uniform_(self.u, gain=nn.init.calculate_gain("relu"))
            nn.init.xavier_uniform_(self.v)
        self.bias = nn.Parameter(torch.zeros(dim))
        if modes is not None:
            self.scale = nn.Parameter(torch.ones(modes, dim))
            self.shift = nn.Parameter(torch.zeros(modes, dim))

    def forward(self, h: Tensor, mode: int | None) -> Tensor:
        """(R, dim) -> (R, dim)."""
        a = h @ self.v.T @ self.u.T + self.bias  # (R, dim)
        if mode is not None:
            a = self.scale[mode] * a + self.shift[mode]
        a = a.clamp(min=0)  # relu with gradient 1 at 0, where all of it starts
        return h + a if self.residual else a


class IDMLP(nn.Module):
    """n_hidden + 1 layers; the identity when fresh (init id)."""

    def __init__(self, dim: int, modes: int | None, hp: MENDSettings) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, modes, hp) for _ in range(hp.n_hidden + 1))

    def forward(self, h: Tensor, mode: int | None) -> Tensor:
        for layer in self.layers:
            h = layer(h, mode)
        return h


class Transform(nn.Module):
    """The network of one weight shape: both factors at once (combine), each by its own, or one of them only."""

    def __init__(self, shape: Shape, modes: int | None, hp: MENDSettings) -> None:
        super().__init__()
        d_in, d_out = shape
        self.d_in = d_in
        self.statistics = Statistics(d_in + d_out) if hp.norm else None
        self.both = IDMLP(d_in + d_out, modes, hp) if hp.combine else None
        only_x = hp.x_only or (hp.one_sided and d_in <= d_out)
        only_g = hp.delta_only or (hp.one_sided and d_in > d_out)  # one_sided: the narrower factor
        self.x = None if hp.combine or only_g else IDMLP(d_in, modes, hp)
        self.g = None if hp.combine or only_x else IDMLP(d_out, modes, hp)

    def forward(self, x: Tensor, g: Tensor, mode: int | None) -> tuple[Tensor, Tensor]:
        """(R, d_in), (R, d_out) -> the same shapes."""
        h = torch.cat([x, g], 1)
        if self.statistics is not None:
            h = self.statistics(h)
        if self.both is not None:
            h = self.both(h, mode)
        x, g = h[:, : self.d_in], h[:, self.d_in :]
        return x if self.x is None else self.x(x, mode), g if self.g is None else self.g(g, mode)


class Network(nn.Module):
    """A transform per weight shape (or per weight, if not shared) and an edit rate per weight.

    `shapes` names the weights in the order of inner_params; m counts those of a shape in that order.
    """

    def __init__(self, shapes: Mapping[str, Shape], hp: MENDSettings) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.shared = hp.shared
        counts = {shape: list(shapes.values()).count(shape) for shape in shapes.values()}
        self.transforms = nn.ModuleDict(
            {
                self._key(name): Transform(shape, counts[shape] if hp.shared else None, hp)
                for name, shape in shapes.items()
            }
        )
        self.edit_lrs = nn.Parameter(torch.full((len(shapes),), hp.edit_lr))

    def forward(self, gradients: Mapping[str, Factors]) -> dict[str, Factors]:
        """Per weight the factors of its update; the edit rate is in g'."""
        out, seen = {}, dict.fromkeys(self.shapes.values(), 0)
        for rate, (name, shape) in zip(self.edit_lrs, self.shapes.items(), strict=True):
            f = gradients[name]
            mode = seen[shape] if self.shared else None
            seen[shape] += 1
            x, g = self.transforms[self._key(name)](f.x, f.g, mode)
            out[name] = Factors(x, rate * g, f.owner)
        return out

    def _key(self, name: str) -> str:
        return "x".join(map(str, self.shapes[name])) if self.shared else name.replace(".", "/")


def seeded(shapes: Mapping[str, Shape], hp: MENDSettings) -> Network:
    """A fresh network drawn on the CPU from the settings' seed; torch's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hp.seed)
        return Network(shapes, hp)
