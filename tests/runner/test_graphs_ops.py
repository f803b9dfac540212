"""The ops that graphs may use are held against all that TensorFlow has."""

import re

import pytest
from tensorflow.core.framework.op_def_pb2 import OpList
from tensorflow.python.client import pywrap_tf_session as c_api

from modelserver.runner.graphs.ops import ALLOWED, CATEGORIES, is_registered

# Names of ops that touch something outside of a run, or the process itself.
DANGEROUS = (
    r"ReadFile|WriteFile|MatchingFiles|ImmutableConst|RecordInput",
    r"Print(V2)?|PyFunc.*|EagerPyFunc|Abort|Sleep.*|.*TestOnly.*",
    r"Save|SaveV2|SaveSlices|Restore.*|MergeV2Checkpoints|.*Checkpoint.*",
    r".*Reader(V2)?|Reader.*|.*Dataset.*|.*Iterator.*|.*LMDB.*|.*Sql.*",
    r"Debug.*|CopyHost|Copy|DumpTensor|.*Summary.*|ImportEvent",
    r"InitializeTableFromTextFile(V2)?|InitializeTableFromDataset",
    r"LoadAndRemapMatrix|GenerateVocabRemapping|FixedUnigramCandidateSampler",
    r"Rpc.*|.*Grpc.*|DataService.*|RemoteCall|.*DataFlow.*|.*Bigtable.*|.*Gcs.*",
    r"_?(Host)?(Send|Recv)|_?.*(Infeed|Outfeed).*|.*AllReduce.*",
    r"Collective.*|Nccl.*|.*TPU.*|.*Tpu.*|.*Xla.*|DTensor.*|.*Mlir.*",
    r"FileSystemSetConfiguration|SymbolicGradient|MapDefun|BatchFunction",
    r".*Queue.*|.*Barrier.*|.*Stage.*|.*Session(Handle|Tensor).*|.*Mutex.*",
    r".*Apply[A-Z].*|.*Accumulator.*|Mutable.*|AnonymousMutable.*|.*MemoryCache",
)


def registered():
    """Return the names of all ops in TensorFlow's registry."""
    ops = OpList.FromString(c_api.TF_GetBuffer(c_api.TF_GetAllOpList()))
    return {op.name for op in ops.op}


def test_every_op_let_in_is_one_of_tensorflows():
    """No name is misspelt, and none is left from another TensorFlow."""
    assert registered() >= ALLOWED
    assert all(map(is_registered, ALLOWED))
    assert not is_registered("SomebodysOwnOp")


def test_every_op_let_in_is_in_one_category():
    """Each op has one category, so it has one reason."""
    assert sum(map(len, CATEGORIES.values())) == len(ALLOWED)


@pytest.mark.parametrize("family", DANGEROUS)
def test_no_op_of_a_dangerous_family_is_let_in(family):
    """Families are named by TensorFlow's registry, so new members fail, too."""
    found = {op for op in registered() if re.fullmatch(family, op)}
    assert found
    assert not found & ALLOWED


def test_most_of_tensorflow_is_not_let_in():
    """The list holds the needed ops, not all but the forbidden ones."""
    assert len(ALLOWED) < 0.35 * len(registered())


# Read from published frozen graphs: SSD and Faster and Mask R-CNN of the Object
# Detection API, Inception of 2015 to ResNet and NASNet of slim, Keras, TF-Hub, YOLO,
# EfficientNet and EfficientDet, TF.js, quantized ones, and TensorFlow 2 exports.
KNOWN = """
    Add AddN AddV2 All Any ArgMax Assert AvgPool BatchMatMul BatchMatMulV2
    BatchNormWithGlobalNormalization BatchToSpaceND BiasAdd BroadcastTo Cast Ceil
    CheckNumerics ClipByValue CombinedNonMaxSuppression Concat ConcatV2 Const Conv2D
    Conv2DBackpropInput CropAndResize DecodeBase64 DecodeBmp DecodeGif DecodeImage
    DecodeJpeg DecodePng DecodeRaw DepthToSpace DepthwiseConv2dNative Dequantize Div
    DivNoNan Elu EnsureShape Enter Equal Erf Exit Exp ExpandDims ExtractImagePatches
    FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
    Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather
    GatherNd GatherV2 Greater GreaterEqual HashTableV2 Identity IdentityN If
    LRN LeakyRelu Less LessEqual LinSpace ListDiff Log Log1p LogSoftmax LogicalAnd
    LogicalNot LogicalOr LookupTableFindV2 LoopCond MatMul Max MaxPool Maximum Mean Merge
    Min Minimum MirrorPad Mul Neg NextIteration NoOp NonMaxSuppression
    NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5
    NotEqual OneHot Pack Pad PadV2 ParseSingleExample PartitionedCall Placeholder
    PlaceholderWithDefault Pow PreventGradient Prod QuantizeV2 QuantizedBiasAdd
    QuantizedConv2D QuantizedMaxPool QuantizedRelu RandomShuffle RandomUniform Range Rank
    RealDiv Relu Relu6 Requantize Reshape ResizeArea ResizeBicubic ResizeBilinear
    ResizeNearestNeighbor ReverseV2 Round Rsqrt ScatterNd Select SelectV2 Selu Shape
    Sigmoid Sign Size Slice Softmax Softplus Softsign SpaceToBatchND SpaceToDepth
    SparseToDense Split SplitV Sqrt Square SquaredDifference Squeeze
    StatefulPartitionedCall StatelessIf StatelessWhile StopGradient StridedSlice Sub Sum
    Switch Tanh TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3
    TensorArrayScatterV3 TensorArraySizeV3 TensorArrayV3 TensorArrayWriteV3
    TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem
    TensorListStack TensorScatterUpdate Tile TopK TopKV2 Transpose TruncateDiv Unique
    Unpack Where While ZerosLike _FusedBatchNormEx _FusedConv2D
    _FusedDepthwiseConv2dNative _FusedMatMul
"""


def test_the_ops_of_known_graphs_are_let_in():
    """A change that drops an op of a known graph fails here."""
    assert set(KNOWN.split()) <= ALLOWED
