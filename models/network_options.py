"""What each architecture lets one choose: defaults, ranges and what they mean. One place for training, sweeps and help texts."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.yamnet import Activation

Share = Annotated[float, Field(ge=0, lt=1, description="of values set to zero while training")]


class Options(BaseModel):
    """The options of an architecture; one that it does not have is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LinearOptions(Options):
    """LinearHead's."""

    hidden: int = Field(64, ge=1, le=4096, description="width of the first layer")


class Conv1dOptions(Options):
    """Conv1dHead's."""

    active_layers: int = Field(8, ge=2, le=8, description="of eight: the first ones, and the last")
    channels: int = Field(64, ge=1, le=1024)
    kernel: int = Field(3, ge=1, le=9, description="rows that a convolution sees; odd")
    dropout: Share = 0.2

    @field_validator("kernel")
    @classmethod
    def _must_be_odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("must be odd")
        return kernel


class Conv2dOptions(Options):
    """Conv2dHead's."""

    channels: int = Field(16, ge=1, le=256)
    hidden: int = Field(64, ge=1, le=4096, description="width of the first dense layer")
    dropout: Share = 0.2


class LstmOptions(Options):
    """LstmHead's."""

    hidden: int = Field(64, ge=1, le=2048, description="width of the state")
    layers: int = Field(1, ge=1, le=4)
    dropout: Share = 0.2


class TransformerOptions(Options):
    """TransformerHead's."""

    layers: int = Field(2, ge=1, le=12)
    heads: int = Field(4, ge=1, le=16, description="parts of the width that attend on their own")
    hidden: int = Field(128, ge=1, le=4096, description="width between a layer's two dense layers")
    dropout: Share = 0.1


class VggishHeadOptions(Options):
    """VggishHeadAverage's."""

    hidden: int = Field(4096, ge=1, le=4096, description="width of both hidden layers")
    dropout: Share = 0.5


class StftCnnOptions(Options):
    """StftCnn's."""

    block_dropout: Share = 0.1
    dropout: Share = 0.3


class MelCnnOptions(Options):
    """MelCnn's."""

    width: int = Field(32, ge=1, le=128, description="channels of the first block; each block doubles them")
    dropout: Share = 0.3


class ResNetOptions(Options):
    """PictureResNet's."""

    dropout: Share = 0.3


class VggishOptions(Options):
    """VggishClassifier's, with the network in full."""

    frozen: bool = Field(False, description="train the last layer only")
    dropout: Share = 0.2


class VggishSlimOptions(VggishOptions):
    """VggishClassifier's, with the slim network."""

    batch_norm: bool = Field(False, description="after each convolution: for training from random weights")


class YamnetOptions(VggishSlimOptions):
    """YamnetClassifier's."""

    activation: Activation = "relu6"
    width: float = Field(1.0, gt=0, le=2, description="scales the channels of every layer; published weights have 1")
