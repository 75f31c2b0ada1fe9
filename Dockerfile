# sd3pipe with CUDA. Not tried on a machine with Docker yet: written from the steps by which the program is built and run elsewhere.
#
#     docker build -t sd3pipe .
#     docker run --rm --gpus all -v "$PWD:/work" -v ~/.cache/huggingface:/cache sd3pipe run my-style.ron
#
# Where the LLVM that burn's CUDA backend downloads can't be had: docker build --build-arg LLVM_FROM_PYTHON=1 …

FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The static LLVM is linked with zlib and zstd.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        build-essential ca-certificates curl libzstd-dev pkg-config python3-venv zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain 1.95.0
ENV PATH=/root/.cargo/bin:$PATH
WORKDIR /source
COPY . .
ARG LLVM_FROM_PYTHON=
RUN if [ -n "$LLVM_FROM_PYTHON" ]; then tools/llvm.sh; fi
RUN cargo install --path . --locked --features cuda --root /out

# The program compiles its kernels by itself. It takes the driver, which Docker brings in with `--gpus`, and of the toolkit the functions
# that a GPU has no instruction for.
FROM nvidia/cuda:12.8.1-base-ubuntu24.04
COPY --from=build /usr/local/cuda/nvvm/libdevice /usr/local/cuda/nvvm/libdevice
COPY --from=build /out/bin/sd3pipe /usr/local/bin/
# Models are kept outside of the container; stores and results lie beside the pipelines in /work.
ENV HF_HOME=/cache
WORKDIR /work
ENTRYPOINT ["sd3pipe"]
CMD ["doctor"]
