// OHIF's configuration. Everything is found from where this file is served, so that a proxy may put both /viewer and
// /dicom-web below a path of its own.
(() => {
  const here = new URL(".", document.currentScript.src);
  const dicomWeb = new URL("../dicom-web", here).href;
  window.PUBLIC_URL = here.pathname;
  window.browserImportFunction = name => import(name);
  window.config = {
    routerBasename: null, // PUBLIC_URL
    extensions: [],
    modes: [],
    customizationService: {},
    showStudyList: true,
    maxNumberOfWebWorkers: 3,
    showWarningMessageForCrossOrigin: false,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
    strictZSpacingForVolumeViewport: true,
    groupEnabledModesFirst: true,
    // Asked nothing, OHIF turns a report into measurements of its own, fails over ours, and takes the outlines away.
    disableConfirmationPrompts: false,
    defaultDataSourceName: "dicomweb",
    dataSources: [
      {
        namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
        sourceName: "dicomweb",
        configuration: {
          friendlyName: "ChexNode",
          name: "chexnode",
          wadoUriRoot: dicomWeb,
          qidoRoot: dicomWeb,
          wadoRoot: dicomWeb,
          qidoSupportsIncludeField: true,
          supportsReject: false,
          supportsStow: false, // the viewer only reads
          dicomUploadEnabled: false,
          imageRendering: "wadors",
          thumbnailRendering: "thumbnail", // drawn by the node, which knows MONOCHROME1
          thumbnailRequestStrategy: "fetch",
          enableStudyLazyLoad: true,
          supportsFuzzyMatching: false,
          supportsWildcard: true,
          staticWado: false,
          singlepart: "bulkdata,video",
          bulkDataURI: { enabled: true },
          omitQuotationForMultipartRequest: true,
        },
      },
    ],
    httpErrorHandler: error => {
      if (error.status === 401) {
        location.reload(); // the token was revoked or has expired: ask for another
      }
    },
  };
})();
