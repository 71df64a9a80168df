"""Object stores: buckets behind URIs, through pyarrow."""
