"""Everything that we use of scipy and that scipy does not promise: the kernel of its sparse product.

Checked on scipy 1.17.1. Another version may drop or rename it, so read this file when the pin changes.
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse._sparsetools import csr_matmat


def sparse_product(left_BI: csr_array, right_II: csr_array) -> csr_array:
    """Return `left_BI @ right_II`, the same to the bit and with its entries in the same order.

    scipy passes over the product twice, first to count its entries. Here they are bounded by the lengths of the rows.
    Matrices with other indices than int32, or a product with too many entries for them, are left to scipy.
    """
    parts = (left_BI.indptr, left_BI.indices, left_BI.data, right_II.indptr, right_II.indices, right_II.data)
    rows, columns = left_BI.shape[0], right_II.shape[1]
    most_I = np.append(0, np.cumsum(np.diff(right_II.indptr)[left_BI.indices], dtype=np.int64))
    bound = int(np.minimum(np.diff(most_I[left_BI.indptr]), columns).sum())
    if bound > np.iinfo(np.int32).max or any(part.dtype != np.int32 for part in (*parts[:2], *parts[3:5])):
        return left_BI @ right_II
    indptr, indices = np.empty(rows + 1, dtype=np.int32), np.empty(bound, dtype=np.int32)
    data = np.empty(bound, dtype=np.result_type(left_BI.data, right_II.data))
    csr_matmat(rows, columns, *parts, indptr, indices, data)
    return csr_array((data[: indptr[-1]], indices[: indptr[-1]], indptr), shape=(rows, columns))
