# What every folder's CMakeLists.txt uses: one static library a folder, one test program a test file.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(SODIUM REQUIRED IMPORTED_TARGET libsodium)
pkg_search_module(MSGPACK REQUIRED IMPORTED_TARGET msgpack msgpack-c)
pkg_check_modules(UV REQUIRED IMPORTED_TARGET libuv)
pkg_check_modules(LMDB REQUIRED IMPORTED_TARGET lmdb)
pkg_check_modules(NGTCP2 REQUIRED IMPORTED_TARGET libngtcp2>=0.12.1 libngtcp2_crypto_gnutls gnutls)
pkg_check_modules(INIH REQUIRED IMPORTED_TARGET inih)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(MINIUPNPC REQUIRED IMPORTED_TARGET miniupnpc)
pkg_check_modules(AVAHI REQUIRED IMPORTED_TARGET avahi-core)
find_library(NATPMP_LIBRARY natpmp REQUIRED) # Debian's package has no .pc file

add_library(dunlin_flags INTERFACE)
target_compile_options(dunlin_flags INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
  $<$<C_COMPILER_ID:GNU>:-Wno-format-truncation> # texts for people are cut to their buffer on purpose
  -fno-common -fstack-protector-strong)
target_compile_definitions(dunlin_flags INTERFACE _GNU_SOURCE $<$<CONFIG:Release>:_FORTIFY_SOURCE=2>)
target_include_directories(dunlin_flags INTERFACE ${PROJECT_SOURCE_DIR})
if(DUNLIN_SANITIZE)
  target_compile_options(dunlin_flags INTERFACE -fsanitize=${DUNLIN_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(dunlin_flags INTERFACE -fsanitize=${DUNLIN_SANITIZE})
endif()
if(DUNLIN_FUZZ)
  target_compile_options(dunlin_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# dunlin_library(NAME LINK targets...): static library dunlin_NAME from every *.c of this folder.
function(dunlin_library name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  list(FILTER sources EXCLUDE REGEX "/main\\.c$")
  if(NOT sources)
    add_library(dunlin_${name} INTERFACE)
    target_link_libraries(dunlin_${name} INTERFACE dunlin_flags ${ARG_LINK})
    return()
  endif()
  add_library(dunlin_${name} STATIC ${sources})
  target_link_libraries(dunlin_${name} PUBLIC dunlin_flags ${ARG_LINK})
endfunction()

# dunlin_tests(FOLDER LINK targets...): each tests/FOLDER/test_X.c becomes the program and ctest entry
# FOLDER_X.
function(dunlin_tests folder)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/test_*.c)
  foreach(source IN LISTS sources)
    get_filename_component(stem ${source} NAME_WE)
    string(REGEX REPLACE "^test_" "${folder}_" name ${stem})
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE ${ARG_LINK} dunlin_support dunlin_test_main)
    target_compile_definitions(${name} PRIVATE TEST_SOURCE_DIR="${CMAKE_CURRENT_SOURCE_DIR}")
    add_test(NAME ${name} COMMAND ${name} --timeout 600)
    # Only against hangs: under ThreadSanitizer on a busy machine the slowest takes minutes.
    set_tests_properties(${name} PROPERTIES TIMEOUT 900 LABELS ${folder})
  endforeach()
endfunction()
