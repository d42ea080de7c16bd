"""The critic of holistic distillation: are these the score maps of the teacher or of the student?

Liu et al., "Structured knowledge distillation for semantic segmentation", CVPR 2019, section 3.2,
and "... for dense prediction", TPAMI 2020 (fact sheet structured_kd 1.3). Its parts: convolutions
under spectral normalisation (Miyato et al., ICLR 2018) and self-attention (Zhang et al., SAGAN,
ICML 2019).

Shape suffixes: N images, C channels, H rows, W columns, P = H * W positions; O outputs and K
values (input channels times kernel area) of a convolution's weight.
Not supported: the input maps tanh and 2(x/255 - 1/2), which the journal's code also offers.
"""

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.models.outputs import ModelError
from kdlib.resize import bilinear


def _unit(x: Tensor) -> Tensor:
    return x / (x.norm() + 1e-12)


class SpectralConv2d(nn.Conv2d):
    """A convolution whose weight, as a matrix (O, K), is divided by its largest singular value.

    The singular value is followed by one step of power iteration in every forward pass, in training
    and in evaluation mode: v = W^T u / |.|, then u = W v / |.|, and sigma = u^T W v (Miyato et al.,
    algorithm 1; fact sheet structured_kd 1.3). The vectors count as constants in the gradient.

    The vector u is kept as a buffer, so a saved state resumes to the bit; v follows from it. Every
    pass calculates with vectors of its own and only copies its u into the buffer. Several passes
    may therefore precede one backward pass, each with its own sigma.
    Deviation: the released code overwrites both vectors in place, so that a backward pass reads the
    newest; here it reads those of its own forward pass.

    Half types and autocast: the step is made in float32; float64 stays float64.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("u", _unit(torch.randn(self.out_channels)))

    def normalised_weight(self) -> Tensor:
        """Make one power step; the weight over its spectral norm, (O, C, h, w)."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.autocast(self.weight.device.type, enabled=False):
            weight_OK = self.weight.flatten(1).to(dtype)
            with torch.no_grad():
                v_K = _unit(weight_OK.T @ self.u.to(dtype))
                u_O = _unit(weight_OK @ v_K)
                self.u.copy_(u_O)
            sigma = u_O @ (weight_OK @ v_K)
            return (weight_OK / sigma).to(self.weight.dtype).view_as(self.weight)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self._conv_forward(x_NCHW, self.normalised_weight(), self.bias)


class SelfAttention(nn.Module):
    """y = gamma * v A^T + x, with A = softmax_j(q_i . k_j) over all positions j; gamma starts at 0.

    q and k have an eighth of the channels, v has all; the products are not scaled (SAGAN, equations
    1 to 3; fact sheet structured_kd 1.3).

    Returns:
        y (N, C, H, W) and A (N, P, P), whose rows sum to 1: row i says where position i looks.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = max(1, channels // 8)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        query_NCP, key_NCP = self.query(x_NCHW).flatten(2), self.key(x_NCHW).flatten(2)
        attention_NPP = torch.bmm(query_NCP.transpose(1, 2), key_NCP).softmax(-1)
        seen_NCP = torch.bmm(self.value(x_NCHW).flatten(2), attention_NPP.transpose(1, 2))
        return self.gamma * seen_NCP.view_as(x_NCHW) + x_NCHW, attention_NPP


class Critic(nn.Module):
    """Scores of segmentation maps: high for what looks like the teacher's, low for the student's.

    The journal's critic (`conditional=False`) sees raw logits through a BatchNorm2d. The
    conference's (`conditional=True`) sees the image, resized to the logits (bilinear, corners
    aligned), and behind it the softmax probabilities, without normalisation.

    Args:
        num_classes: classes C of the logits.
        conditional: see the image as well.
        blocks: convolutions 4x4 of stride 2, each followed by a leaky ReLU 0.1. Every one halves
            the map; the last convolution needs 4 x 4 positions. So the smallest legal map has
            4 * 2^blocks positions a side (`smallest`): 64 for the paper's 4 blocks, 32 for 3, 16
            for 2, 8 for 1.
        width: channels of the first block; they double with every block (the paper's: 64 to 512).
        attention: self-attention behind the last two blocks.
        spectral_norm: normalise the weights of the blocks; the last convolution, the attention
            and the input have none.

    Deviation: the conditional critic takes the image as it is given, RGB in [0, 1] in this library,
    where the released loaders hand over B, G, R less a mean. Order and shift are the first
    convolution's to learn.

    Example:
        >>> Critic(19)(torch.zeros(2, 19, 65, 65)).shape
        torch.Size([2, 1, 1, 1])
    """

    def __init__(
        self,
        num_classes: int,
        *,
        conditional: bool = False,
        blocks: int = 4,
        width: int = 64,
        attention: bool = True,
        spectral_norm: bool = True,
    ):
        super().__init__()
        if min(num_classes, blocks, width) < 1:
            raise ValueError(
                f"num_classes, blocks and width must be positive: {num_classes}, {blocks}, {width}"
            )
        self.num_classes = num_classes
        self.conditional = conditional
        self.smallest = 4 * 2**blocks
        self.input_norm = None if conditional else nn.BatchNorm2d(num_classes)
        convolution = SpectralConv2d if spectral_norm else nn.Conv2d
        channels = [num_classes + 3 * conditional, *(width * 2**i for i in range(blocks))]
        self.blocks = nn.ModuleList(
            convolution(inputs, outputs, 4, 2, 1) for inputs, outputs in pairwise(channels)
        )
        self.attention = nn.ModuleDict(
            {str(i): SelfAttention(channels[i + 1]) for i in range(blocks) if i >= blocks - 2}
            if attention
            else {}
        )
        self.last = nn.Conv2d(channels[-1], 1, 4)

    def forward(self, logits_NCHW: Tensor, images_NCHW: Tensor | None = None) -> Tensor:
        """Scores of logits, and of the images they belong to.

        Args:
            logits_NCHW: raw logits (N, C, H, W), H and W at least `smallest`.
            images_NCHW: images (N, 3, any size) for a conditional critic, None for the other.

        Returns:
            (N, 1, h, w) scores without bound, one for each window of `smallest` positions a side;
            h = floor(H / 2^blocks) - 3. One score for 65 x 65 logits; several for a larger map, of
            which the losses take the mean.

        Raises:
            ModelError: the map is too small.
            ValueError: other shapes than these, or images missing or given in vain.
        """
        return self._scores_and_maps(logits_NCHW, images_NCHW)[0]

    @torch.no_grad()
    def attention_maps(
        self, logits_NCHW: Tensor, images_NCHW: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Where each position looks: (N, h, w, h, w) for every self-attention, by block.

        Keys "block3" and "block4" for the paper's critic. Entry [n, i, j] is a map (h, w) that sums
        to 1. Arguments and errors as `forward`. Works on a copy: the statistics and power vectors
        of the critic do not move.
        """
        return copy.deepcopy(self)._scores_and_maps(logits_NCHW, images_NCHW)[1]

    def _scores_and_maps(
        self, logits_NCHW: Tensor, images_NCHW: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x, maps = self._input(logits_NCHW, images_NCHW), {}
        for i, block in enumerate(self.blocks):
            x = F.leaky_relu(block(x), 0.1)
            if str(i) in self.attention:
                size = tuple(x.shape[-2:])
                x, attention_NPP = self.attention[str(i)](x)
                maps[f"block{i + 1}"] = attention_NPP.unflatten(2, size).unflatten(1, size)
        return self.last(x), maps

    def _input(self, logits_NCHW: Tensor, images_NCHW: Tensor | None) -> Tensor:
        if logits_NCHW.dim() != 4 or logits_NCHW.shape[1] != self.num_classes:
            raise ValueError(
                f"logits must be (N, {self.num_classes}, H, W), not {tuple(logits_NCHW.shape)}"
            )
        size = tuple(logits_NCHW.shape[-2:])
        if min(size) < self.smallest:
            raise ModelError(
                f"logits of {size[0]} x {size[1]} positions are too small for a critic of "
                f"{len(self.blocks)} blocks, which needs {self.smallest} a side: upsample the "
                f"logits, or build it with fewer blocks{_fewer(min(size))}"
            )
        if self.conditional != (images_NCHW is not None):
            raise ValueError(
                "a conditional critic scores logits together with their images: give both"
                if self.conditional
                else "this critic sees no images: leave them out, or build it with conditional=True"
            )
        logits_NCHW = _ordinary(logits_NCHW)
        if images_NCHW is None:
            return self.input_norm(logits_NCHW)
        if images_NCHW.dim() != 4 or images_NCHW.shape[:2] != (len(logits_NCHW), 3):
            raise ValueError(
                f"images must be ({len(logits_NCHW)}, 3, H, W) for logits of "
                f"{tuple(logits_NCHW.shape)}, not {tuple(images_NCHW.shape)}"
            )
        probabilities_NCHW = logits_NCHW.softmax(1)
        # image first, then probabilities: 3 + C channels
        images_NCHW = bilinear(_ordinary(images_NCHW), size).to(probabilities_NCHW.dtype)
        return torch.cat([images_NCHW, probabilities_NCHW], 1)


def _ordinary(x: Tensor) -> Tensor:
    """A tensor that a backward pass may keep; a teacher's output may come from inference mode."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x


def _fewer(side: int) -> str:
    """How many blocks a map of so many positions allows, in words."""
    blocks = (side // 4).bit_length() - 1
    return f" (at most {blocks})" if blocks >= 1 else " (none has fewer than 8 positions a side)"
