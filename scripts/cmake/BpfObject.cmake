# fairlead_bpf_object(NAME SOURCE): compiles SOURCE with clang for BPF and makes NAME.skel.h, reached by linking
# fairlead_bpf_NAME. UAPI headers are enough (bpf/lib/kernel.h): the object does not depend on the machine that built it.
set(FAIRLEAD_BPF_DIR ${CMAKE_BINARY_DIR}/bpf_generated)
file(MAKE_DIRECTORY ${FAIRLEAD_BPF_DIR})
find_program(BPF_CLANG NAMES clang-19 REQUIRED)
find_program(BPFTOOL NAMES bpftool PATHS /usr/sbin REQUIRED)

function(fairlead_bpf_object name source)
  get_filename_component(source ${source} ABSOLUTE)
  set(object ${FAIRLEAD_BPF_DIR}/${name}.bpf.o)
  set(skeleton ${FAIRLEAD_BPF_DIR}/${name}.skel.h)
  file(GLOB headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bpf/abi/*.h ${CMAKE_SOURCE_DIR}/bpf/lib/*.h)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${BPF_CLANG} -g -O2 -target bpf -mcpu=v3 -Wall -Werror -I${CMAKE_SOURCE_DIR}/bpf
            -I/usr/include/${CMAKE_LIBRARY_ARCHITECTURE} -c ${source} -o ${object}
    DEPENDS ${source} ${headers}
    COMMENT "BPF ${name}")
  add_custom_command(
    OUTPUT ${skeleton}
    COMMAND ${BPFTOOL} gen skeleton ${object} name ${name} > ${skeleton}
    DEPENDS ${object}
    COMMENT "BPF skeleton ${name}")
  add_custom_target(fairlead_bpf_${name}_gen DEPENDS ${skeleton})
  add_library(fairlead_bpf_${name} INTERFACE)
  add_dependencies(fairlead_bpf_${name} fairlead_bpf_${name}_gen)
  target_include_directories(fairlead_bpf_${name} INTERFACE ${FAIRLEAD_BPF_DIR})
endfunction()
