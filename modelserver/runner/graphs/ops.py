"""List the ops that a graph may use, by purpose.

A graph for images computes: it takes numbers, gives numbers, and touches nothing else.
So ops are let in by name, all others are refused, and a new TensorFlow
brings no new risk. Statefulness is no guide: ``ReadFile``, ``ImmutableConst``,
``Abort`` and ``PyFuncStateless`` are stateless to TensorFlow, while tensor arrays,
``Assert``, tables and random numbers are stateful and common in detectors.

Not here, on purpose: files and checkpoints, the network and other devices, Python,
datasets and their iterators, queues and readers, summaries, printing and debugging,
collectives, launching compiled clusters (TPU, XLA), optimizers, state that outlives a
run, sleeping and ``Abort``. The names are those of TensorFlow's registry.
"""

from __future__ import annotations

# tf.raw_ops is public but leaves many ops out; only this knows them all.
from tensorflow.python.framework import op_def_registry

# Where values come from and pass unchanged.
_SOURCES = """
    Const HostConst Placeholder PlaceholderV2 PlaceholderWithDefault NoOp Identity
    IdentityN Snapshot StopGradient PreventGradient GuaranteeConst EnsureShape FakeParam
    CheckNumerics CheckNumericsV2 Assert
"""
# Variables live in the session only. A graph that still needs them is not frozen, which
# finding its inputs says better than a refused op would.
_VARIABLES = """
    Variable VariableV2 VarHandleOp Assign AssignVariableOp ReadVariableOp
    ResourceGather IsVariableInitialized VarIsInitializedOp
"""
# Loops and branches of TensorFlow 1, and those by functions, whose bodies are checked.
# What may run forever is the load's and the run's time limit's to end.
_CONTROL_FLOW = """
    Switch Merge Enter Exit NextIteration LoopCond ControlTrigger RefSwitch RefMerge
    RefEnter RefExit RefNextIteration RefIdentity
    If StatelessIf While StatelessWhile Case StatelessCase PartitionedCall
    StatefulPartitionedCall
"""
# The lists that loops fill, in memory and gone after the run.
_LISTS = """
    TensorArray TensorArrayV2 TensorArrayV3
    TensorArrayRead TensorArrayReadV2 TensorArrayReadV3
    TensorArrayWrite TensorArrayWriteV2 TensorArrayWriteV3
    TensorArrayGather TensorArrayGatherV2 TensorArrayGatherV3
    TensorArrayScatter TensorArrayScatterV2 TensorArrayScatterV3
    TensorArrayConcat TensorArrayConcatV2 TensorArrayConcatV3
    TensorArraySplit TensorArraySplitV2 TensorArraySplitV3
    TensorArraySize TensorArraySizeV2 TensorArraySizeV3
    TensorArrayClose TensorArrayCloseV2 TensorArrayCloseV3
    TensorArrayPack TensorArrayUnpack
    EmptyTensorList TensorListReserve TensorListFromTensor TensorListStack
    TensorListGetItem TensorListSetItem TensorListPushBack TensorListPushBackBatch
    TensorListPopBack TensorListLength TensorListElementShape TensorListResize
    TensorListGather TensorListScatter TensorListScatterV2
    TensorListScatterIntoExistingList TensorListConcat TensorListConcatV2
    TensorListConcatLists TensorListSplit
"""
# Shapes, slices, order and types.
_ARRAYS = """
    Shape ShapeN Rank Size Reshape Squeeze ExpandDims Transpose ConjugateTranspose
    InvertPermutation Pack ParallelConcat Unpack Concat ConcatV2 ConcatOffset Split
    SplitV Slice StridedSlice TensorStridedSliceUpdate Gather GatherV2 GatherNd
    ScatterNd ScatterNdNonAliasingAdd TensorScatterUpdate TensorScatterAdd
    TensorScatterSub TensorScatterMax TensorScatterMin Tile BroadcastTo BroadcastArgs
    BroadcastGradientArgs Pad PadV2 MirrorPad Fill ZerosLike OnesLike OneHot Range
    LinSpace Reverse ReverseV2 ReverseSequence Roll Where Select SelectV2 Unique
    UniqueV2 UniqueWithCounts UniqueWithCountsV2 ListDiff Cast Bitcast DynamicPartition
    DynamicStitch ParallelDynamicStitch UnravelIndex LowerBound UpperBound SparseToDense
    SparseReshape SparseReorder SparseFillEmptyRows SparseConcat SparseSlice
    SparseTensorDenseMatMul SparseSegmentSum SparseSegmentMean SparseSegmentSqrtN
    RaggedRange RaggedGather RaggedTensorToTensor RaggedTensorToSparse Diag DiagPart
    MatrixDiag MatrixDiagV2 MatrixDiagV3 MatrixDiagPart MatrixDiagPartV2
    MatrixDiagPartV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixBandPart
    DataFormatDimMap DataFormatVecPermute
"""
# Element by element.
_MATH = """
    Abs Acos Acosh Add AddN AddV2 AccumulateNV2 Angle ApproximateEqual Asin Asinh Atan
    Atan2 Atanh Betainc BitwiseAnd BitwiseOr BitwiseXor Ceil ClipByValue Complex
    ComplexAbs Conj Cos Cosh Digamma Div DivNoNan Equal Erf Erfc Erfinv Exp Expm1 Floor
    FloorDiv FloorMod Greater GreaterEqual Igamma Igammac Imag Inv Invert IsFinite IsInf
    IsNan LeftShift Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr
    Maximum Minimum Mod Mul MulNoNan Ndtri Neg NextAfter NotEqual PopulationCount Pow
    Real RealDiv Reciprocal RightShift Rint Round Rsqrt Sigmoid Sign Sin Sinh Sqrt
    Square SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py Xlogy
    Zeta _UnaryOpsComposition
"""
# Over an axis, by matrix, and in frequencies.
_REDUCTIONS = """
    All Any ArgMax ArgMin Bincount DenseBincount Bucketize Cumprod Cumsum
    CumulativeLogsumexp EuclideanNorm HistogramFixedWidth Max Mean Min Prod Sum
    SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum UnsortedSegmentMax
    UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum NthElement TopK TopKV2
    InTopK InTopKV2 ApproxTopK
    MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum Cross L2Loss SparseMatMul
    Cholesky MatrixDeterminant MatrixInverse MatrixSolve MatrixTriangularSolve Qr Svd
    SelfAdjointEigV2
    FFT FFT2D FFT3D IFFT IFFT2D IFFT3D RFFT RFFT2D RFFT3D IRFFT IRFFT2D IRFFT3D
    _FusedMatMul
"""
# Layers, with the fused ones that Grappler writes into a frozen graph.
_LAYERS = """
    Conv Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput Conv3DBackpropInput
    Conv3DBackpropInputV2 DepthwiseConv2dNativeBackpropInput Dilation2D
    FusedPadConv2D FusedResizeAndPadConv2D BiasAdd BiasAddV1
    AvgPool AvgPool3D MaxPool MaxPoolV2 MaxPool3D MaxPoolWithArgmax FractionalAvgPool
    FractionalMaxPool FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
    BatchNormWithGlobalNormalization LRN Relu Relu6 LeakyRelu Elu Selu Softplus Softsign
    Softmax LogSoftmax SoftmaxCrossEntropyWithLogits
    SparseSoftmaxCrossEntropyWithLogits SpaceToBatch SpaceToBatchND BatchToSpace
    BatchToSpaceND SpaceToDepth DepthToSpace BlockLSTM BlockLSTMV2 LSTMBlockCell
    GRUBlockCell CudnnRNN CudnnRNNV2 CudnnRNNV3 CudnnRNNCanonicalToParams
    CudnnRNNCanonicalToParamsV2 CudnnRNNParamsSize CTCGreedyDecoder CTCBeamSearchDecoder
    _FusedConv2D _FusedConv3D _FusedDepthwiseConv2dNative _FusedBatchNormEx
"""
# Numbers of fewer bits: trained so, made so by the old graph transforms, or fused so.
_QUANTIZED = """
    FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
    QuantizeAndDequantize QuantizeAndDequantizeV2 QuantizeAndDequantizeV3
    QuantizeAndDequantizeV4 QuantizeV2 Dequantize QuantizeDownAndShrinkRange Requantize
    RequantizePerChannel RequantizationRange RequantizationRangePerChannel QuantizedAdd
    QuantizedMul QuantizedAvgPool QuantizedMaxPool QuantizedBiasAdd QuantizedConcat
    QuantizedConcatV2 QuantizedConv2D QuantizedConv2DAndRelu
    QuantizedConv2DAndReluAndRequantize QuantizedConv2DAndRequantize
    QuantizedConv2DPerChannel QuantizedConv2DWithBias QuantizedConv2DWithBiasAndRelu
    QuantizedConv2DWithBiasAndReluAndRequantize QuantizedConv2DWithBiasAndRequantize
    QuantizedConv2DWithBiasSignedSumAndReluAndRequantize
    QuantizedConv2DWithBiasSumAndRelu QuantizedConv2DWithBiasSumAndReluAndRequantize
    QuantizedDepthwiseConv2D QuantizedDepthwiseConv2DWithBias
    QuantizedDepthwiseConv2DWithBiasAndRelu
    QuantizedDepthwiseConv2DWithBiasAndReluAndRequantize QuantizedInstanceNorm
    QuantizedBatchNormWithGlobalNormalization QuantizedMatMul QuantizedMatMulWithBias
    QuantizedMatMulWithBiasAndDequantize QuantizedMatMulWithBiasAndRelu
    QuantizedMatMulWithBiasAndReluAndRequantize QuantizedMatMulWithBiasAndRequantize
    QuantizedRelu QuantizedRelu6 QuantizedReluX QuantizedReshape QuantizedResizeBilinear
"""
# Images and boxes. The decoders read the bytes they are given, not files.
_IMAGES = """
    DecodeJpeg DecodePng DecodeGif DecodeBmp DecodeImage DecodeAndCropJpeg
    ExtractJpegShape EncodeJpeg EncodePng ResizeArea ResizeBicubic ResizeBilinear
    ResizeNearestNeighbor ScaleAndTranslate CropAndResize ExtractGlimpse
    ExtractGlimpseV2 ExtractImagePatches ExtractVolumePatches ImageProjectiveTransformV2
    ImageProjectiveTransformV3 AdjustContrast AdjustContrastv2 AdjustHue
    AdjustSaturation RGBToHSV HSVToRGB DrawBoundingBoxes DrawBoundingBoxesV2
    SampleDistortedBoundingBox SampleDistortedBoundingBoxV2 RandomCrop
    GenerateBoundingBoxProposals NonMaxSuppression NonMaxSuppressionV2
    NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5
    NonMaxSuppressionWithOverlaps CombinedNonMaxSuppression
"""
# Dropout and sampling that an export left in.
_RANDOM = """
    RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal RandomShuffle
    Multinomial RandomGamma RandomPoissonV2 StatelessRandomUniform
    StatelessRandomUniformV2 StatelessRandomUniformInt StatelessRandomUniformIntV2
    StatelessRandomNormal StatelessRandomNormalV2 StatelessTruncatedNormal
    StatelessTruncatedNormalV2 StatelessRandomGetKeyCounter StatelessRandomGetAlg
    StatelessRandomGetKeyCounterAlg StatelessMultinomial
"""
# Class names inside the graph, from constants. InitializeTableFromTextFile reads a file
# and stays out.
_TABLES_AND_TEXT = """
    HashTable HashTableV2 InitializeTable InitializeTableV2 LookupTableFind
    LookupTableFindV2 LookupTableSize LookupTableSizeV2 LookupTableImport
    LookupTableImportV2 AsString StringFormat StringJoin StringLength StringLower
    StringUpper StringStrip StringSplit StringSplitV2 StringToNumber StringToHashBucket
    StringToHashBucketFast StringToHashBucketStrong Substr ReduceJoin RegexFullMatch
    RegexReplace StaticRegexFullMatch StaticRegexReplace UnicodeTranscode DecodeRaw
    DecodePaddedRaw DecodeBase64 EncodeBase64 DecodeCSV ParseExample ParseExampleV2
    ParseSingleExample
"""
# Reads the clock and nothing else.
_CLOCK = "Timestamp"

CATEGORIES: dict[str, frozenset[str]] = {
    "sources": frozenset(_SOURCES.split()),
    "variables": frozenset(_VARIABLES.split()),
    "control flow": frozenset(_CONTROL_FLOW.split()),
    "lists": frozenset(_LISTS.split()),
    "arrays": frozenset(_ARRAYS.split()),
    "math": frozenset(_MATH.split()),
    "reductions": frozenset(_REDUCTIONS.split()),
    "layers": frozenset(_LAYERS.split()),
    "quantized": frozenset(_QUANTIZED.split()),
    "images": frozenset(_IMAGES.split()),
    "random": frozenset(_RANDOM.split()),
    "tables and text": frozenset(_TABLES_AND_TEXT.split()),
    "clock": frozenset(_CLOCK.split()),
}
"""The ops let in, by purpose; each is in one category."""

ALLOWED: frozenset[str] = frozenset().union(*CATEGORIES.values())
"""All ops that an untrusted graph may use."""


def is_registered(op: str) -> bool:
    """Return whether this TensorFlow has an op, let in or not."""
    return op_def_registry.get(op) is not None
