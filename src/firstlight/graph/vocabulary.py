"""What kinds of operation there are, as far as the flow of a signal is concerned (in-place marks left off)."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The same numbers, each once, in another arrangement.
REARRANGEMENT = _words(
    """view reshape unflatten flatten transpose permute t numpy_T mT mH matrix_H movedim moveaxis swapaxes swapdims
    squeeze unsqueeze contiguous view_as reshape_as unsafe_view _unsafe_view detach clone alias channel_shuffle
    pixel_shuffle pixel_unshuffle roll flip rot90"""
)

# The same numbers, arranged, selected, repeated or converted.
SHAPE = REARRANGEMENT | _words(
    """expand expand_as to type_as select slice narrow index index_select gather take_along_dim getitem chunk split
    split_with_sizes tensor_split unbind repeat repeat_interleave unfold im2col write copy pad constant_pad_nd
    reflection_pad2d replication_pad2d"""
)

# Operations that cut a tensor into parts.
SPLIT = _words("chunk split split_with_sizes tensor_split unbind select slice narrow")

NORMALIZATION = _words("batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm")

POOLING = _words(
    """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices
    max_pool2d_with_indices lp_pool2d mean amax upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_bilinear2d upsample_bicubic2d upsample_linear1d upsample_trilinear3d"""
)

DROPOUT = _words("dropout dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout")

# Sums and joins: each operand is in the result as it was.
JOIN = _words("add sub rsub cat stack concat")

# One number in, one number out.
ACTIVATION = _words(
    """relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh sigmoid tanh
    softplus log_sigmoid softshrink hardshrink threshold clamp clamp_min clamp_max abs sin cos erf atan square glu"""
)

CONVOLUTION = _words("conv1d conv2d conv3d")
TRANSPOSED = _words("conv_transpose1d conv_transpose2d conv_transpose3d")
# The argument of a matrix product that is multiplied from the right, by operation.
PRODUCT = {"matmul": "other", "mm": "mat2", "bmm": "mat2", "addmm": "mat2", "baddbmm": "batch2", "addbmm": "batch2"}
LEFT_OPERAND = {"matmul": "self", "mm": "self", "bmm": "self", "addmm": "mat1", "baddbmm": "batch1", "addbmm": "batch1"}
RECURRENT = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
