"""Images of the drawing probe as a few numbers a cell, and back, without loss: its latent space.

    codec = CellCodec.of(images)                  # images (B, 3, H, H) in [-1, 1] that show every shape
    latents = codec.encode(images)                # (B, C, 3, 3), one vector a cell
    codec.decode(latents)                         # (B, 3, H, H)

One figure in one colour is a mask times a colour, so that all cells lie in a space of three dimensions a shape. A
diffusion model in it spends nothing on pixels that are always white, and learns what text tells several times sooner.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from granted.dataset_builders.scenes.shapes.drawing import GRID, SHAPES


CHANNELS = 3 * len(SHAPES)


@dataclass
class CellCodec:
    """A linear map between cells and latents.

    Args:
        mean (`torch.Tensor`): (P,), of a cell's pixels.
        basis (`torch.Tensor`): (C, P), orthonormal.
        scale (`float`): of a latent of a cell with a figure to deviation 1.
    """

    mean: torch.Tensor
    basis: torch.Tensor
    scale: float

    @classmethod
    def of(cls, images: torch.Tensor) -> "CellCodec":
        """The principal components of the cells of images (B, 3, H, H) that show every shape in several colours."""
        cells = _cells(images).permute(0, 2, 1).flatten(0, 1)  # (B * 9, P)
        mean = cells.mean(0)  # (P,)
        centred = (cells - mean).double()  # (B * 9, P)
        _, components = torch.linalg.eigh(centred.T @ centred)  # (P, P), the largest at the end
        basis = components.T[-CHANNELS:].float()  # (C, P)
        squares = ((cells - mean) @ basis.T).square().sum(-1).view(len(images), -1)  # (B, 9)
        # Of the cell that shows the figure: were its latents larger, they would show through almost all of the noise,
        # so that hardly a training step would ask the text for its place.
        scale = float((squares.amax(1).mean() / CHANNELS).sqrt())
        return cls(mean, basis, scale)

    def to(self, device: torch.device) -> "CellCodec":
        """The same on another device."""
        return replace(self, mean=self.mean.to(device), basis=self.basis.to(device))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, H) to latents (B, C, 3, 3)."""
        cells = _cells(images) - self.mean.unsqueeze(-1)  # (B, P, 9)
        latents = self.basis @ cells / self.scale  # (B, C, 9)
        return latents.unflatten(-1, (GRID, GRID))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, 3, 3) to images (B, 3, H, H) in [-1, 1]."""
        cells = self.basis.T @ latents.flatten(2) * self.scale + self.mean.unsqueeze(-1)  # (B, P, 9)
        side = round((cells.shape[1] / 3) ** 0.5)
        return F.fold(cells, GRID * side, kernel_size=side, stride=side).clamp(-1, 1)  # (B, 3, H, H)


def _cells(images: torch.Tensor) -> torch.Tensor:
    """The pixels of every cell, (B, P, 9)."""
    side = images.shape[-1] // GRID
    return F.unfold(images, kernel_size=side, stride=side)
