"""Every constant that a measurement has set, with what was measured.

`scripts/bench/tune.py` measures all of them again, one after another, where nothing else is said, and
`scripts/bench/nn.py` whole modules. The times here: one core of an AMD EPYC (Zen 5), torch 2.13, float32. Triton's
tiles come from a model with constants of its own, in `triton/tiles.py`; `scripts/device/tune.py` measures those.
"""

# --- matrix products on oneDNN (gemm.py, linear.py) -------------------------------------------------------------------

# Multiply-adds of one product below which the overhead of oneDNN (about 13 us a call) costs more than it gains.
# us for (b, H) times (H, 4H), oneDNN against MKL: (32, 64) 15.4 12.5; (64, 64) 19.5 24.2; (8, 128) 16.2 17.5;
# (16, 128) 20.4 28.4; (2, 256) 22.5 25.0; (4, 256) 26.3 91.0.
MIN_WORK = 800_000
# The same where rows have to be filled up (STEP_ROWS), which takes another 8 us. us for (b, H) times (H, H) plus rows,
# oneDNN against MKL: (20, 200) 23.0 17.2; (60, 128) 23.4 19.0; (31, 200) 25.8 26.6; (13, 300) 27.6 30.2; (30, 256)
# 31.5 39.7.
MIN_FILLED_WORK = 1_300_000
# Multiply-adds of all products with one weight from which packing it pays: packing takes 70 us and more where oneDNN's
# product saves 11 us a million, less 8. A scan of an RNN over 5 steps of 32 rows and 128 units took 0.91 ms with every
# weight packed, ATen's loop 0.53.
MIN_PACKED_WORK = 16_000_000
# Multiply-adds from which the sum of outer products is oneDNN's. us for N rows, M x K, oneDNN against MKL: (160, 64,
# 128) 55 26; (640, 64, 128) 99 99; (96, 200, 400) 113 139; (640, 128, 256) 227 384.
MIN_OUTER_WORK = 6_000_000
# Multiply-adds of one product from which rounding float32 to bfloat16 pays (where the CPU multiplies bfloat16). us for
# (b, K) times (K, M), float32 beside bfloat16 with its conversions: (16, 64, 256) 15 15; (32, 128, 512) 29 24;
# (32, 256, 1024) 84 52; (64, 512, 4096) 1190 565.
MIN_LOW_WORK = 1_000_000
# Multiply-adds from which the backward pass of a linear layer gains too: 64 rows of 768 features to 256 (13 million)
# take 0.97 ms beside 0.86, 832 of 256 to 256 (55 million) 2.2 beside 3.3.
MIN_TRAINING = 30_000_000
# Rows below which `product` is ATen's: for 8,000 x 256, 1, 5, 8, 16 rows take oneDNN 1.1 ms, ATen 0.2, 0.7, 0.7, 1.2.
MIN_PRODUCT_ROWS = 12
# Rows are filled up with zeros to a multiple of these, in a single product and in one of many with a packed weight.
# oneDNN makes and keeps a primitive for every shape it meets (up to 1024 of them, 0.4 to 1.7 MiB and 0.4 to 1 ms each),
# and with sentences of any length almost every batch has new shapes: 60 updates of a translation model rose to 1,150
# MiB without the filling and to 890 MiB with it. scripts/bench/translation.py shows the memory.
PRODUCT_ROWS, STEP_ROWS = 32, 8
# Rows that `outer` takes at a time: oneDNN wants copies of its operands, and these shall stay small. ms for
# (6400 rows, M 2048, K 812) in blocks of 256, 512, 1024, 2048 and 8192 rows: 115, 105, 107, 117, 130.
OUTER_ROWS = 512

# Multiply-adds of one product with a weight packed once, rows not filled up, from which it beats ATen's, in decoding.
# us of ATen beside packed, (rows, K, M): (1, 256, 5898) 86 70 (438 145 where other programs use the memory too);
# (5, 256, 5898) 292 81; (1, 768, 1024) 40 36; (5, 768, 1024) 165 48; (1, 768, 256) 15 20; (2, 768, 256) 25 21;
# (5, 768, 256) 43 22; (3, 256, 256) 13 14; (5, 256, 256) 18 15.
MIN_DECODE_WORK = 320_000

# --- pointwise parts (kernel.py, additive.py) -------------------------------------------------------------------------

# Elements from which four cheap passes beat one tanh: ATen's tanh costs 2 to 4 ns an element where its sigmoid costs
# 0.33, and a call about 1 us.
MIN_TANH = 1536
# 2 sigmoid(2x) - 1 is off by up to 1.2e-7 whatever x is: it serves where the largest tanh is not much below 1.
# tests/nn/test_precision.py holds the error.
MIN_REACH = 0.5
# Elements from which expm1(2x) / (expm1(2x) + 2) stands in where `exact` is asked for: us for 8,192 and 16,384 elements
# of ATen's tanh 17.9 and 35.1, of expm1's form 11.8 and 19.4, of sigmoid's 6.8 and 9.7.
MIN_EXPM1 = 16_384
# Elements of a block of additive attention's tanh(q + k): about the second-level cache, so that its passes run there.
ADDITIVE_TERMS = 262_144
# Terms up to which they are made at once, without a buffer for blocks: its views cost 15 us.
ADDITIVE_FEW = 65_536

# --- losses and decoding (loss.py, attentional.py) --------------------------------------------------------------------

# Rows whose logits exist at a time. ms of forward and backward for 832 rows of 256 features in chunks of 64, 128, 256,
# 512, 832 rows, beside F.linear and F.cross_entropy: vocabulary 6,000: 56, 48, 45, 44, 46, beside 109; 10,000: 94, 84,
# 77, 74, 82, beside 189.
LOGIT_ROWS = 512
# Rows of a single step from which a backend earns the weights' new arrangement. ms for 512 features into 256 units, the
# cell's own step beside the best backend: LSTM, 5 rows 0.25 beside 0.47, 64 rows 1.35 beside 1.04, 320 rows 9.9 beside
# 3.0; GRU, 5 rows 0.17 beside 0.17, 320 rows 8.0 beside 2.6.
MIN_DECODE_ROWS = 32

# --- which backend runs a call (backends.py, which holds the tables; scripts/bench/nn.py measures them) ---------------

# Rows times units of a step: from the first on, an LSTM on uneven lengths runs on the fused kernel, which spends no
# work on padding, and takes three stretches on oneDNN where that is asked for; below the second, inference runs on
# ATen's loop.
LARGE_STEP, SMALL_STEP = 16_384, 4_096
# Units from which oneDNN's LSTM is slower to train in bfloat16 than the fused kernel, where steps are large.
WIDE_LOW = 512
# Steps up to which ATen's loop has less overhead, in training and in inference; and in training on full batches, of a
# GRU and of an RNN, half of them from LARGE_STEP on.
FEW_STEPS_TRAINING, FEW_STEPS = 4, 2
FEW_STEPS_GRU, FEW_STEPS_RNN = 12, 20
# Units up to which and from which cuDNN's inference on full batches is faster than one launch of Triton
# (`scripts/device/check.py --parts speed`).
FEW_UNITS, MANY_UNITS = 128, 1_024
# oneDNN computes on the padding too, so a ragged batch with at least this number of sequences runs in stretches of time
# with fewer and fewer rows: a new one begins where the rows fall to this share. Training, lengths uniform in T/2..T, ms
# in 1, 2, 3, 4 stretches: (50,32,128,128) 11.1 10.4 10.3 10.8; (100,64,256,256) 147 122 118 115; (64,16,64,64) 3.1 3.1
# 3.5 3.8. In bfloat16 one stretch is best in training: (50,32,128,128) 5.1 5.6 6.0 6.7; (50,32,256,256) 17 18 19 19.
MIN_STRETCH_ROWS, STRETCH_FALL = 32, 0.7
