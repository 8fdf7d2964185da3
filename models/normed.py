"""Networks with batch norm, for training from random weights; folded into the plain ones afterwards. Knows nothing of sound or labels.

YAMNet was published with batch norm after every convolution (research/audioset/yamnet/yamnet.py in github.com/tensorflow/models: no bias,
epsilon 1e-4) and shipped with it folded in. From random weights the folded form hardly learns; the same holds for VGGish's stack.
"""

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.layout import CONVOLUTIONS
from models.vggish import VGGish
from models.yamnet import CLASSES, Activation, YAMNet

EPSILON = 1e-4


def with_norm(convolution: nn.Module) -> nn.Sequential:
    """A convolution -> the same without bias, and a batch norm behind it."""
    assert isinstance(convolution, nn.Conv2d)
    convolution.register_parameter("bias", None)  # the norm's offset takes its place
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels, eps=EPSILON))


def folded(pair: nn.Module) -> dict[str, Tensor]:
    """A convolution and its norm -> weight and bias of one convolution that does the same."""
    assert isinstance(pair, nn.Sequential)
    convolution, norm = pair
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return dict(fuse_conv_bn_eval(convolution.eval(), norm.eval()).state_dict())


class TrainableYAMNet(YAMNet):
    """YAMNet with a batch norm after each of its 27 convolutions; `fold` gives the plain one."""

    def __init__(self, classes: int = CLASSES, activation: Activation = "relu6", width: float = 1.0) -> None:
        """A network with random weights."""
        super().__init__(classes, activation, width)
        self.kind = (classes, activation, width)
        self.convolutions = nn.ModuleList(with_norm(layer) for layer in self.convolutions)

    def fold(self) -> YAMNet:
        """The same function as a plain YAMNet, ready to infer; puts this one into eval mode."""
        plain = YAMNet(*self.kind)
        for pair, convolution in zip(self.convolutions, plain.convolutions, strict=True):
            convolution.load_state_dict(folded(pair))
        plain.dense.load_state_dict(self.dense.state_dict())
        return plain.eval()


class TrainableVGGish(VGGish):
    """VGGish-slim with a batch norm after each of its six convolutions; `fold` gives the plain one."""

    def __init__(self) -> None:
        """A network with random weights."""
        super().__init__(slim=True)
        for number in CONVOLUTIONS:
            self.features[number] = with_norm(self.features[number])

    def fold(self) -> VGGish:
        """The same function as a plain VGGish-slim, ready to infer; puts this one into eval mode."""
        plain = VGGish(slim=True)
        for number in CONVOLUTIONS:
            plain.features[number].load_state_dict(folded(self.features[number]))
        plain.embeddings.load_state_dict(self.embeddings.state_dict())
        return plain.eval()
