# graphcompress_model(TARGET MODEL model.onnx DATA feeds [OUTPUT small.onnx] [PREPROCESS file] [MIN_AGREEMENT 0.99] [OPTIONS ...])
#
# A target that compresses a model when the model or its data changed, and stops the build where a bar is missed; then nothing is written.
# In the target's properties: GRAPHCOMPRESS_MODEL is the result, GRAPHCOMPRESS_RECORD its record.
# By default nothing depends on time (--no-measure), so that the same inputs give the same bytes on any machine.

find_program(GRAPHCOMPRESS graphcompress REQUIRED DOC "The graphcompress command: pip install '.[cpu]' in its repository")

function(graphcompress_model target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "MODEL;DATA;OUTPUT;PREPROCESS;MIN_AGREEMENT" "OPTIONS")
  if(NOT DEFINED arg_MODEL OR NOT DEFINED arg_DATA)
    message(FATAL_ERROR "graphcompress_model(${target}): give MODEL and DATA.")
  endif()
  if(DEFINED arg_UNPARSED_ARGUMENTS OR DEFINED arg_KEYWORDS_MISSING_VALUES)
    message(FATAL_ERROR "graphcompress_model(${target}): not understood: '${arg_UNPARSED_ARGUMENTS}'; without a value: '${arg_KEYWORDS_MISSING_VALUES}'")
  endif()
  get_filename_component(model "${arg_MODEL}" ABSOLUTE)
  get_filename_component(data "${arg_DATA}" ABSOLUTE)
  get_filename_component(name "${arg_MODEL}" NAME_WLE)
  if(NOT DEFINED arg_OUTPUT)
    set(arg_OUTPUT "${name}.small.onnx")
  endif()
  get_filename_component(output "${arg_OUTPUT}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_BINARY_DIR}")
  if(NOT DEFINED arg_MIN_AGREEMENT)
    set(arg_MIN_AGREEMENT 0.99)
  endif()
  if(NOT DEFINED arg_OPTIONS)
    set(arg_OPTIONS --no-measure)
  endif()
  # What an exporter puts beside the model. GLOB takes [, ] and the like for patterns: names with these depend on the model alone.
  file(GLOB external CONFIGURE_DEPENDS "${model}.data" "${model}_data")
  set(depends "${model}" ${external})
  if(DEFINED arg_PREPROCESS)
    get_filename_component(preprocess "${arg_PREPROCESS}" ABSOLUTE)
    list(APPEND arg_OPTIONS --preprocess "${preprocess}")
    list(APPEND depends "${preprocess}")
  endif()
  if(IS_DIRECTORY "${data}")
    file(GLOB_RECURSE feeds CONFIGURE_DEPENDS "${data}/*")
    list(APPEND depends ${feeds})
  endif()
  list(APPEND depends "${data}") # a folder's time changes when a file comes or goes
  get_filename_component(folder "${output}" DIRECTORY)
  add_custom_command(
    OUTPUT "${output}"
    BYPRODUCTS "${output}.record.json"
    COMMAND "${CMAKE_COMMAND}" -E make_directory "${folder}"
    COMMAND "${GRAPHCOMPRESS}" compress "${model}" -o "${output}" --data "${data}" --record "${output}.record.json"
            --min-agreement ${arg_MIN_AGREEMENT} ${arg_OPTIONS} -q
    DEPENDS ${depends}
    COMMENT "Compressing ${arg_MODEL}"
    VERBATIM)
  add_custom_target(${target} ALL DEPENDS "${output}")
  set_target_properties(${target} PROPERTIES GRAPHCOMPRESS_MODEL "${output}" GRAPHCOMPRESS_RECORD "${output}.record.json")
endfunction()
