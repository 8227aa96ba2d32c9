# Compiles for every Linux with glibc 2.28: gcc, over the sysroot that tools/sysroot.py makes.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_SYSROOT "$ENV{SPARSEFLOW_SYSROOT}")
if(NOT EXISTS "${CMAKE_SYSROOT}/usr/lib/libc.so.6")
  message(FATAL_ERROR "SPARSEFLOW_SYSROOT names no sysroot: ${CMAKE_SYSROOT}")
endif()
# Python and torch are this machine's.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE NEVER)
# gcc's own folder comes first in its search, and has the libstdc++.so that the sysroot replaces; what is taken
# from libstdc++.a stays in the library, so that torch's own copy is not disturbed.
set(CMAKE_SHARED_LINKER_FLAGS_INIT "-L${CMAKE_SYSROOT}/usr/lib -Wl,--exclude-libs,ALL -Wl,-z,defs")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-L${CMAKE_SYSROOT}/usr/lib")
# CUDA's runtime calls shm_open, which was in librt until glibc 2.34; this machine's librt may be empty.
set(CUDAToolkit_rt_LIBRARY "${CMAKE_SYSROOT}/usr/lib/librt.so" CACHE FILEPATH "librt of the sysroot")
