"""The two Triton kernels of `triton_chain`, which launches them and says what they compute. Importing this imports triton.

Each is one launch that programs of several kinds share, told apart by their number. All sums are float32 ("ieee": never
TF32). Every product takes both of its operands from memory, a slice of the summed side at a time: a whole r×r operand in
registers would spill from r = 64 on. The chain's length n is a number at run time: it changes neither the number of launches
nor the compiled code. R is the rank, RP the rank padded to a power of two that `tl.dot` takes; what lies beyond R is read as
zero and never written.
"""

import triton
import triton.language as tl


@triton.jit
def _product(
    x_ptr,
    x_row_stride,
    x_column_stride,
    y_ptr,
    y_row_stride,
    y_column_stride,
    k_start,
    k_stop,
    columns,
    width,
    R: tl.constexpr,
    RP: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """x[:, k_start:k_stop] @ y[k_start:k_stop, columns], x with R rows and y with `width` columns: float32 (RP, columns)."""
    # 64 bits: with a stride of `in` or `out`, an offset may lie beyond 2³¹
    rows = tl.arange(0, RP).to(tl.int64)[:, None]
    columns = columns.to(tl.int64)[None, :]
    total = tl.full((RP, columns.shape[1]), 0.0, tl.float32)
    for k in range(k_start, k_stop, BLOCK_K):
        ks = (k + tl.arange(0, BLOCK_K)).to(tl.int64)
        x_ptrs = x_ptr + rows * x_row_stride + ks[None, :] * x_column_stride
        y_ptrs = y_ptr + ks[:, None] * y_row_stride + columns * y_column_stride
        x = tl.load(x_ptrs, mask=(rows < R) & (ks[None, :] < k_stop), other=0.0)
        y = tl.load(y_ptrs, mask=(ks[:, None] < k_stop) & (columns < width), other=0.0)
        total = tl.dot(x.to(tl.float32), y.to(tl.float32), total, input_precision="ieee")
    return total


@triton.jit
def _store(ptr, value, row_stride, columns, width, R: tl.constexpr, RP: tl.constexpr):
    """`value`, (RP, columns), to the R rows of ptr, which has `width` columns; rounded to its dtype."""
    rows = tl.arange(0, RP).to(tl.int64)[:, None]
    columns = columns.to(tl.int64)[None, :]
    inside = (rows < R) & (columns < width)
    tl.store(ptr + rows * row_stride + columns, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _cast(from_ptr, to_ptr, scale, program, size, BLOCK: tl.constexpr):
    """`scale` times the program's BLOCK of `size` numbers, rounded to the target's dtype."""
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    numbers = tl.load(from_ptr + at, mask=at < size, other=0.0).to(tl.float32) * scale
    tl.store(to_ptr + at, numbers.to(to_ptr.dtype.element_ty), mask=at < size)


@triton.jit
def _prefixes(chain_ptr, kept_ptr, n, R: tl.constexpr, RP: tl.constexpr, BLOCK_K: tl.constexpr):
    """P_i = W_i … W_1 for i = 1 … n, (n, R, R).

    Every program of A' makes them for itself, in the same place. That is no hazard: all write the same bits, and each reads
    only what it has written before.
    """
    square = tl.arange(0, RP)
    rows = square[:, None]
    first = tl.load(chain_ptr + rows * (n * R) + square[None, :], mask=(rows < R) & (square[None, :] < R), other=0.0)
    _store(kept_ptr, first.to(tl.float32), R, square, R, R, RP)
    tl.debug_barrier()
    for i in range(1, n):
        before = kept_ptr + (i - 1) * R * R
        product = _product(chain_ptr + i * R, n * R, 1, before, R, 1, 0, R, square, R, R, RP, BLOCK_K)
        _store(kept_ptr + i * R * R, product, R, square, R, R, RP)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["n", "a_programs"])
def forward_kernel(
    a_ptr,  # A (R, in_features)
    chain_ptr,  # W_1 … W_n (R, n, R), or None
    b_ptr,  # B, b_size numbers
    a_out_ptr,  # A', as A
    b_out_ptr,  # B', as B
    kept_ptr,  # the prefixes, float32 (n, R, R), then the backward's counter, 0; or None
    scale,
    n,
    in_features,
    b_size,
    a_programs,
    R: tl.constexpr,
    RP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Programs 0 … a_programs - 1: A', BLOCK_IN columns each (without a chain BLOCK numbers); the others: B', BLOCK numbers."""
    program = tl.program_id(0)
    if program >= a_programs:
        _cast(b_ptr, b_out_ptr, 1.0, program - a_programs, b_size, BLOCK)
    elif chain_ptr is None:
        _cast(a_ptr, a_out_ptr, scale, program, tl.cast(in_features, tl.int64) * R, BLOCK)
    else:
        if program == 0:
            tl.store((kept_ptr + n * R * R).to(tl.pointer_type(tl.int32)), 0)
        _prefixes(chain_ptr, kept_ptr, n, R, RP, BLOCK_K)
        columns = program * BLOCK_IN + tl.arange(0, BLOCK_IN)
        m_ptr = kept_ptr + (n - 1) * R * R
        tile = _product(m_ptr, R, 1, a_ptr, in_features, 1, 0, R, columns, in_features, R, RP, BLOCK_K)
        _store(a_out_ptr, tile * scale, in_features, columns, in_features, R, RP)


@triton.jit(do_not_specialize=["n", "a_programs", "tiles"])
def backward_kernel(
    a_ptr,  # A (R, in_features)
    chain_ptr,  # W_1 … W_n (R, n, R), or None
    kept_ptr,  # what the forward kept, or None; its counter is 0 before and after
    grad_a_ptr,  # dA' (R, in_features)
    grad_b_ptr,  # dB' (out_features, R), strided
    d_a_ptr,  # dA, as A
    d_chain_ptr,  # dW_1 … dW_n, as the chain, or None
    d_b_ptr,  # dB (out_features, R)
    scratch_ptr,  # float32 (a_programs + n, R, R): the parts of dM, then dW_i before its prefix; or None
    scale,
    n,
    in_features,
    out_features,
    grad_b_row_stride,
    grad_b_column_stride,
    a_programs,
    tiles,
    R: tl.constexpr,
    RP: tl.constexpr,
    R_POWER: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Programs 0 … a_programs - 1: dA, `tiles` times BLOCK_IN columns each (without a chain BLOCK numbers), and their part of
    dM; the last of them to arrive makes the dW_i. The others: dB, BLOCK / R_POWER rows each.
    """
    program = tl.program_id(0)
    if program >= a_programs:
        rows = (program - a_programs).to(tl.int64) * (BLOCK // R_POWER) + tl.arange(0, BLOCK // R_POWER)[:, None]
        columns = tl.arange(0, R_POWER).to(tl.int64)[None, :]
        inside = (rows < out_features) & (columns < R)
        grad_ptrs = grad_b_ptr + rows * grad_b_row_stride + columns * grad_b_column_stride
        grad = tl.load(grad_ptrs, mask=inside, other=0.0).to(tl.float32)
        tl.store(d_b_ptr + rows * R + columns, grad.to(d_b_ptr.dtype.element_ty), mask=inside)
    elif chain_ptr is None:
        _cast(grad_a_ptr, d_a_ptr, scale, program, tl.cast(in_features, tl.int64) * R, BLOCK)
    else:
        start = program * tiles * BLOCK_IN
        stop = tl.minimum(start + tiles * BLOCK_IN, in_features)
        m_ptr = kept_ptr + (n - 1) * R * R
        for column in range(start, stop, BLOCK_IN):
            columns = column + tl.arange(0, BLOCK_IN)
            tile = _product(m_ptr, 1, R, grad_a_ptr, in_features, 1, 0, R, columns, in_features, R, RP, BLOCK_K)
            _store(d_a_ptr, tile * scale, in_features, columns, in_features, R, RP)
        square = tl.arange(0, RP)
        part = _product(grad_a_ptr, in_features, 1, a_ptr, 1, in_features, start, stop, square, R, R, RP, BLOCK_IN)
        _store(scratch_ptr + program * R * R, part * scale, R, square, R, R, RP)
        # every thread of the block has written its numbers before one of them adds 1; adding releases what the block has
        # written and acquires what the blocks that added before it have
        tl.debug_barrier()
        counter_ptr = (kept_ptr + n * R * R).to(tl.pointer_type(tl.int32))
        if tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") == a_programs - 1:
            _factors(chain_ptr, kept_ptr, scratch_ptr, d_chain_ptr, n, a_programs, R, RP, BLOCK_K, PARTS)
            tl.store(counter_ptr, 0)


@triton.jit
def _factors(
    chain_ptr,
    kept_ptr,
    scratch_ptr,
    d_chain_ptr,
    n,
    a_programs,
    R: tl.constexpr,
    RP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
):
    """dM from its parts, added in the order of the columns, whoever came last: the same bits every time. Then from B's side
    to A's D_n = dM, D_i = W_{i+1}ᵀ D_{i+1} and dW_i = D_i P_{i-1}ᵀ.
    """
    square = tl.arange(0, RP)
    rows = square[:, None]
    inside = (rows < R) & (square[None, :] < R)
    at = rows * R + square[None, :]
    d = tl.full((RP, RP), 0.0, tl.float32)
    for p in range(0, a_programs, PARTS):
        for q in tl.static_range(PARTS):  # that many loads are under way at a time
            part_ptrs = scratch_ptr + (p + q) * R * R + at
            d += tl.load(part_ptrs, mask=inside & (p + q < a_programs), other=0.0, cache_modifier=".cg")
    for k in range(n - 1):
        i = n - 1 - k
        d_ptr = scratch_ptr + (a_programs + i) * R * R
        _store(d_ptr, d, R, square, R, R, RP)
        tl.debug_barrier()
        before = kept_ptr + (i - 1) * R * R
        d_factor = _product(d_ptr, R, 1, before, 1, R, 0, R, square, R, R, RP, BLOCK_K)
        _store(d_chain_ptr + i * R, d_factor, n * R, square, R, R, RP)
        d = _product(chain_ptr + i * R, 1, n * R, d_ptr, R, 1, 0, R, square, R, R, RP, BLOCK_K)
    _store(d_chain_ptr, d, n * R, square, R, R, RP)
